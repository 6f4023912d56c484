package pki

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
)

const (
	tokenPrefix  = "SWMTKN"
	tokenVersion = "1"
	secretLen    = 25 // base36 digits, 129 bits
	secretBytes  = 17

	tokenHelp = "print one with `swarm join-token worker` or `swarm join-token manager` on a manager"
)

// Token is a join token. Digest identifies the root certificate that the joiner pins before it
// sends anything. Secret admits the joiner with the role to which the secret belongs. The secret is
// never sent: the joiner and the manager each prove to the other that they know it. The text form
// has the shape of Docker's join tokens.
type Token struct {
	Digest string
	Secret string
}

// NewToken makes a token for root with a fresh random secret.
func NewToken(root *x509.Certificate) Token {
	return Token{Digest: RootDigest(root), Secret: ident.Base36(ident.RandomBytes(secretBytes), secretLen)}
}

// String returns the text form of the token, which users pass to `swarm join`. It contains the
// secret: never log it.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, tokenVersion, t.Digest, t.Secret}, "-")
}

// Side names one of the two ends of a connection on which both ends prove that they know a token.
type Side string

// The two sides. The proofs of the two sides differ, so neither side can answer with the proof that
// it received.
const (
	// SideJoiner is the host that asks to join.
	SideJoiner Side = "joiner"
	// SideManager is the manager that the joiner asks.
	SideManager Side = "manager"
)

// Proof returns the bytes with which a side shows that it knows the token: an HMAC-SHA256, keyed
// with the secret, over the binding of the connection. Both ends derive the binding from their TLS
// handshake. The proof reveals nothing about the secret and is useless on any other connection: a
// server in the middle has a different connection, and therefore a different binding, with each
// end.
func (t Token) Proof(side Side, binding []byte) []byte {
	mac := hmac.New(sha256.New, []byte(t.Secret))
	// The encoding is unambiguous: all parts but the side have a fixed size, and neither side name
	// is a prefix of the other.
	mac.Write([]byte("swarm join proof 1 " + string(side) + " " + t.Digest + " "))
	mac.Write(binding)
	return mac.Sum(nil)
}

// Proves reports whether proof is the proof of side for this token and binding. The comparison
// takes constant time. It is false for every proof if the binding is empty.
func (t Token) Proves(proof []byte, side Side, binding []byte) bool {
	return len(binding) > 0 && hmac.Equal(proof, t.Proof(side, binding))
}

// CheckRoots returns the root in the bundle that the token pins. It returns
// errdefs.ErrUnauthenticated if the bundle has no such root, which means that the token belongs to
// another cluster. where names the host that presented the bundle; it is used in the error text
// only.
func (t Token) CheckRoots(bundle *Bundle, where string) (*x509.Certificate, error) {
	if root, ok := bundle.Find(t.Digest); ok {
		return root, nil
	}
	return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
		"join token does not belong to the cluster at %s: it names the root %s..., the cluster's is %s...; %s of that cluster",
		where, t.Digest[:min(8, len(t.Digest))], RootDigest(bundle.roots[0])[:8], tokenHelp))
}

// ParseToken parses the text form of a join token. It returns errdefs.ErrInvalidArgument if the
// text is malformed. The error text never contains the secret.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), "-")
	switch {
	case s == "":
		return Token{}, badToken("is empty")
	case parts[0] == "SWMKEY":
		return Token{}, badToken("is an unlock key (SWMKEY)")
	case parts[0] != tokenPrefix:
		return Token{}, badToken("does not start with " + tokenPrefix)
	case len(parts) > 1 && parts[1] != tokenVersion:
		return Token{}, badToken(fmt.Sprintf("has version %.8q, this build knows %s", parts[1], tokenVersion))
	case len(parts) != 4:
		return Token{}, badToken(fmt.Sprintf("has %d parts between dashes, not 4", len(parts)))
	case len(parts[2]) != DigestLen:
		return Token{}, badToken(fmt.Sprintf("has a digest of %d characters, not %d: part of it is missing or doubled", len(parts[2]), DigestLen))
	case len(parts[3]) != secretLen:
		return Token{}, badToken(fmt.Sprintf("has a secret of %d characters, not %d: part of it is missing or doubled", len(parts[3]), secretLen))
	case !ident.IsBase36(parts[2]) || !ident.IsBase36(parts[3]):
		return Token{}, badToken("has characters other than a-z and 0-9")
	}
	return Token{Digest: parts[2], Secret: parts[3]}, nil
}

func badToken(why string) error {
	return errdefs.ErrInvalidArgument.WithMessage("join token " + why + "; " + tokenHelp)
}

// NewGossipKey returns a random AES-256 key (32 bytes) for the encryption of gossip.
func NewGossipKey() []byte { return ident.RandomBytes(32) }
