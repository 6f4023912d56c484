package pki

import (
	"crypto/subtle"
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

// Token is a join token: the digest of the root that the joiner pins before it says anything, and a secret that lets it
// in with the role the secret belongs to. Its text has the shape of Docker's.
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

// Equal compares two tokens in a time that tells nothing of where they differ.
func (t Token) Equal(other Token) bool {
	digest := subtle.ConstantTimeCompare([]byte(t.Digest), []byte(other.Digest))
	secret := subtle.ConstantTimeCompare([]byte(t.Secret), []byte(other.Secret))
	return digest&secret == 1
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
