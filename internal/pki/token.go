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

// Token is a join token: the digest of the root that the joiner pins before it says anything, and a
// secret that lets it in with the role the secret belongs to. The secret never leaves the two hosts
// that know it: each proves to the other that it knows it. Its text has the shape of Docker's.
type Token struct {
	Digest string
	Secret string
}

// NewToken makes a token with a fresh secret.
func NewToken(root *x509.Certificate) Token {
	return Token{Digest: RootDigest(root), Secret: ident.Base36(ident.RandomBytes(secretBytes), secretLen)}
}

// String is the token as users pass it. It is a secret: never log it.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, tokenVersion, t.Digest, t.Secret}, "-")
}

// Side is one end of a connection on which both ends prove that they know a token.
type Side string

// The sides. Their proofs differ, so that neither end can answer with what it was sent.
const (
	// SideJoiner is the host that wants to join.
	SideJoiner Side = "joiner"
	// SideManager is the manager that it asks.
	SideManager Side = "manager"
)

// Proof is what a side sends to show that it knows the token: an HMAC-SHA256 over the binding of
// the connection, which both ends derive from their handshake. It tells the receiver nothing of the
// secret, and is of no use on any other connection: a server between the two ends has a connection,
// and so a binding, with each of them.
func (t Token) Proof(side Side, binding []byte) []byte {
	mac := hmac.New(sha256.New, []byte(t.Secret))
	// Sizes are fixed but for the side, whose words are no prefixes of each other.
	mac.Write([]byte("swarm join proof 1 " + string(side) + " " + t.Digest + " "))
	mac.Write(binding)
	return mac.Sum(nil)
}

// Proves reports whether proof is what the side sends for this token and binding, in a time that
// tells nothing of where they differ. Nothing is proved without a binding.
func (t Token) Proves(proof []byte, side Side, binding []byte) bool {
	return len(binding) > 0 && hmac.Equal(proof, t.Proof(side, binding))
}

// CheckRoots finds the root that the token pins, and says so when the token is of another cluster. where names who
// presented the roots.
func (t Token) CheckRoots(bundle *Bundle, where string) (*x509.Certificate, error) {
	if root, ok := bundle.Find(t.Digest); ok {
		return root, nil
	}
	return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
		"join token does not belong to the cluster at %s: it names the root %s..., the cluster's is %s...; %s of that cluster",
		where, t.Digest[:min(8, len(t.Digest))], RootDigest(bundle.roots[0])[:8], tokenHelp))
}

// ParseToken reads a join token. Its errors never repeat the secret.
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

// NewGossipKey makes a key for the encryption of gossip: AES-256.
func NewGossipKey() []byte { return ident.RandomBytes(32) }
