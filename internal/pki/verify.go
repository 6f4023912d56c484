package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// The reasons for which Verify refuses a certificate, for callers that distinguish them. Each error
// also has the class errdefs.ErrUnauthenticated.
var (
	// ErrExpired means that the certificate has expired and is valid in every other respect. Verify
	// also returns the Peer in this case, so that the caller can judge a request for renewal.
	ErrExpired = fmt.Errorf("certificate has expired: %w", errdefs.ErrUnauthenticated)
	// ErrNotYetValid means that the clocks of the two hosts differ by more than Backdate.
	ErrNotYetValid = fmt.Errorf("certificate is not valid yet: %w", errdefs.ErrUnauthenticated)
	// ErrOtherCluster means that the certificate names another cluster.
	ErrOtherCluster = fmt.Errorf("certificate is of another cluster: %w", errdefs.ErrUnauthenticated)
	// ErrUnknownRoot means that the certificate cannot be verified with the roots of the bundle,
	// and that it does not name another cluster.
	ErrUnknownRoot = fmt.Errorf("certificate is signed by an unknown root: %w", errdefs.ErrUnauthenticated)
	// ErrMalformed means that the signature is valid but the certificate has the shape of neither a
	// node certificate nor a user certificate.
	ErrMalformed = fmt.Errorf("certificate is neither a node's nor a user's: %w", errdefs.ErrUnauthenticated)
)

// Peer is the identity that a verified certificate proves.
type Peer struct {
	Kind Kind
	ID   string // the node's id, or the user's name
	// Manager is true if the certificate says that the node is a manager. Issued is then the Raft
	// index at which the node was a manager. A node certificate does not say whether the node is a
	// manager, so a Peer without Manager may still be one.
	Manager   bool
	Issued    uint64
	ClusterID string
	NotAfter  time.Time
	Cert      *x509.Certificate
}

// PublicKey returns the public key of the certificate as a DER-encoded SubjectPublicKeyInfo, or nil
// if the peer has no certificate.
func (p Peer) PublicKey() []byte {
	if p.Cert == nil {
		return nil
	}
	return p.Cert.RawSubjectPublicKeyInfo
}

// refusal is an error with a one-line text that wraps one of the errors above.
type refusal struct {
	cause error
	text  string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(cause error, format string, args ...any) error {
	return &refusal{cause: cause, text: fmt.Sprintf(format, args...)}
}

// Verify checks the certificates that a peer presented against the bundle, as of now. chain begins
// with the certificate of the peer itself. If the error is ErrExpired, Verify also returns the
// Peer; with any other error it returns the zero Peer.
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
		at = leaf.NotAfter // verify the signatures as of the last valid moment
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

// checkChain verifies the signatures up to a root of the bundle as of the time at. The cluster name
// in a certificate that failed verification is used only to choose the error and its text.
func checkChain(leaf *x509.Certificate, rest []*x509.Certificate, bundle *Bundle, at time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range slices.Concat(rest, bundle.cross) {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         bundle.pool,
		Intermediates: between,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // identify checks the key usages
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

// identify reads the kind and the id from a certificate that one of our roots signed. It refuses a
// certificate that does not look exactly like those of SignNode, SignManager or SignUser.
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
		issued, ok := issuedIndex(leaf)
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
