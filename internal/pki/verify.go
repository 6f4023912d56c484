package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// What can be wrong with a certificate, for callers that tell the cases apart. Each is also of errdefs' class
// unauthenticated.
var (
	// ErrExpired: in order in every other respect; Verify returns the peer with it, so that a renewal can be judged.
	ErrExpired = fmt.Errorf("certificate has expired: %w", errdefs.ErrUnauthenticated)
	// ErrNotYetValid: the clocks of the two hosts disagree by more than Backdate.
	ErrNotYetValid = fmt.Errorf("certificate is not valid yet: %w", errdefs.ErrUnauthenticated)
	// ErrOtherCluster: the certificate names another cluster.
	ErrOtherCluster = fmt.Errorf("certificate is of another cluster: %w", errdefs.ErrUnauthenticated)
	// ErrUnknownRoot: the certificate names this cluster, but no root of the bundle vouches for it.
	ErrUnknownRoot = fmt.Errorf("certificate is signed by an unknown root: %w", errdefs.ErrUnauthenticated)
	// ErrMalformed: a root vouches for it, but it is neither a node's nor a user's.
	ErrMalformed = fmt.Errorf("certificate is neither a node's nor a user's: %w", errdefs.ErrUnauthenticated)
)

// Peer is what a verified certificate proves.
type Peer struct {
	Kind Kind
	ID   string // the node's id, or the user's name
	// Manager is set for a node whose certificate says that it is a manager, and Issued is then the Raft index at which
	// that was so. A node without it may be a manager all the same: its node certificate does not say.
	Manager   bool
	Issued    uint64
	ClusterID string
	NotAfter  time.Time
	Cert      *x509.Certificate
}

// PublicKey is the key that the peer has proven to hold, as SubjectPublicKeyInfo in DER; nil without a certificate.
func (p Peer) PublicKey() []byte {
	if p.Cert == nil {
		return nil
	}
	return p.Cert.RawSubjectPublicKeyInfo
}

// refusal is a one-line sentence that is one of the errors above.
type refusal struct {
	cause error
	text  string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(cause error, format string, args ...any) error {
	return &refusal{cause: cause, text: fmt.Sprintf(format, args...)}
}

// Verify checks the certificates that a peer presented, its own first, against the bundle at the given time. With
// ErrExpired the peer is returned too; with any other error it is the zero Peer.
func Verify(chain []*x509.Certificate, bundle *Bundle, now time.Time) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, errdefs.ErrUnauthenticated.WithMessage("peer presented no certificate")
	}
	leaf := chain[0]
	at := now
	switch {
	case now.Before(leaf.NotBefore):
		at = leaf.NotBefore
	case now.After(leaf.NotAfter):
		at = leaf.NotAfter // judge the rest as of its last valid moment
	}
	if err := checkChain(leaf, chain[1:], bundle, at); err != nil {
		return Peer{}, err
	}
	peer, err := identify(leaf)
	if err != nil {
		return Peer{}, err
	}
	switch {
	case peer.ClusterID != bundle.ClusterID():
		return Peer{}, otherCluster(leaf, bundle)
	case now.Before(leaf.NotBefore):
		return Peer{}, refuse(ErrNotYetValid, "certificate of %s %s is valid only from %s, and it is %s here: set the clocks of both hosts", peer.Kind, peer.ID, stamp(leaf.NotBefore), stamp(now))
	case now.After(leaf.NotAfter):
		return peer, refuse(ErrExpired, "certificate of %s %s expired at %s", peer.Kind, peer.ID, stamp(leaf.NotAfter))
	}
	return peer, nil
}

// checkChain verifies signatures and authorities as of a moment, and on a refusal says which kind it is. What an
// unverified certificate says of its cluster only chooses the words.
func checkChain(leaf *x509.Certificate, rest []*x509.Certificate, bundle *Bundle, at time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range slices.Concat(rest, bundle.cross) {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         bundle.pool,
		Intermediates: between,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // identify judges them
	})
	if err == nil {
		return nil
	}
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		return refuse(ErrUnknownRoot, "certificate of %q cannot be verified: %v", leaf.Subject.CommonName, err)
	}
	if first(leaf.Subject.Organization) != bundle.ClusterID() {
		return otherCluster(leaf, bundle)
	}
	return refuse(ErrUnknownRoot, "certificate of %q is signed by a root that this host does not know: it missed a rotation; leave and join again", leaf.Subject.CommonName)
}

// identify reads kind and id from a certificate that an authority of ours signed. It is strict: whatever does not look
// exactly as SignNode, SignManager or SignUser make it proves nothing.
func identify(leaf *x509.Certificate) (Peer, error) {
	id := leaf.Subject.CommonName
	peer := Peer{ID: id, ClusterID: first(leaf.Subject.Organization), NotAfter: leaf.NotAfter, Cert: leaf}
	client := slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	server := slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	units := leaf.Subject.OrganizationalUnit
	switch {
	case leaf.IsCA || id == "":
	case len(units) == 0 && client && server && slices.Equal(leaf.DNSNames, []string{id}):
		peer.Kind = KindNode
		return peer, nil
	case slices.Equal(units, []string{managerUnit}) && client && server && slices.Equal(leaf.DNSNames, []string{id}):
		issued, ok := issuedOf(leaf)
		if !ok {
			break
		}
		peer.Kind, peer.Manager, peer.Issued = KindNode, true, issued
		return peer, nil
	case slices.Equal(units, []string{userUnit}) && client && !server && len(leaf.DNSNames) == 0:
		peer.Kind = KindUser
		return peer, nil
	}
	return Peer{}, refuse(ErrMalformed, "certificate of %q is neither a node's nor a user's", id)
}

func otherCluster(leaf *x509.Certificate, bundle *Bundle) error {
	return refuse(ErrOtherCluster, "certificate of %q is of another cluster (%q, this is %q)", leaf.Subject.CommonName, first(leaf.Subject.Organization), bundle.ClusterID())
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
