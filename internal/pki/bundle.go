package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
)

const (
	// DigestLen is the length of a digest: a SHA-256 in base36.
	DigestLen = 50
	// maxBundle limits the certificates in a bundle. A rotation needs three.
	maxBundle = 16
)

// Bundle is the set of roots that a member trusts, plus the cross certificates that link the roots
// during a rotation. A Bundle is immutable.
type Bundle struct {
	roots  []*x509.Certificate // sorted by their bytes, so that equal sets have equal digests
	cross  []*x509.Certificate // sorted like roots
	pool   *x509.CertPool
	digest string
}

// NewBundle makes a Bundle of roots and cross certificates in any order. It returns
// errdefs.ErrInvalidArgument if a certificate is neither, if there is no root, if the roots belong
// to different clusters, or if there are more than 16 certificates.
func NewBundle(certs ...*x509.Certificate) (*Bundle, error) {
	if len(certs) > maxBundle {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("root bundle holds %d certificates, at most %d are allowed", len(certs), maxBundle))
	}
	b := &Bundle{pool: x509.NewCertPool()}
	for _, cert := range certs {
		switch {
		case isRoot(cert):
			b.roots = append(b.roots, cert)
		case cert.IsCA && cert.BasicConstraintsValid:
			b.cross = append(b.cross, cert)
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("root bundle holds a certificate of %q that is no authority", cert.Subject.CommonName))
		}
	}
	if len(b.roots) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("root bundle holds no root")
	}
	b.roots, b.cross = unique(b.roots), unique(b.cross)
	for _, root := range b.roots {
		if first(root.Subject.Organization) != b.ClusterID() {
			return nil, errdefs.ErrInvalidArgument.WithMessage("root bundle holds roots of different clusters")
		}
		b.pool.AddCert(root)
	}
	b.digest = b.sum()
	return b, nil
}

// ParseBundle parses the output of Bundle.PEM.
func ParseBundle(data []byte) (*Bundle, error) {
	if len(data) > maxPEM {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("root bundle is too long: %d bytes", len(data)))
	}
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != pemCert {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("root bundle holds a block of kind %q", block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, badPEM("root bundle", err)
		}
		certs = append(certs, cert)
		data = rest
	}
	if len(bytes.TrimSpace(data)) != 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("root bundle ends in something that is not PEM")
	}
	return NewBundle(certs...)
}

// PEM returns the bundle in PEM, roots first. Equal bundles give equal bytes.
func (b *Bundle) PEM() []byte {
	var out []byte
	for _, cert := range b.Certs() {
		out = append(out, EncodeCert(cert)...)
	}
	return out
}

// Certs returns all certificates: the roots, then the cross certificates.
func (b *Bundle) Certs() []*x509.Certificate { return slices.Concat(b.roots, b.cross) }

// Roots returns the trusted roots. The caller must not modify the slice.
func (b *Bundle) Roots() []*x509.Certificate { return b.roots }

// Cross returns the cross certificates of a running rotation. A server presents them after its own
// certificate. The caller must not modify the slice.
func (b *Bundle) Cross() []*x509.Certificate { return b.cross }

// ClusterID returns the id of the cluster to which the roots belong.
func (b *Bundle) ClusterID() string { return first(b.roots[0].Subject.Organization) }

// Digest identifies the whole bundle. Members report it, so the certificate authority knows which
// member has which bundle.
func (b *Bundle) Digest() string { return b.digest }

// Find returns the root with the given digest, which is the Digest of a join token.
func (b *Bundle) Find(rootDigest string) (*x509.Certificate, bool) {
	for _, root := range b.roots {
		if RootDigest(root) == rootDigest {
			return root, true
		}
	}
	return nil, false
}

func (b *Bundle) sum() string {
	h := sha256.New()
	for _, cert := range b.Certs() {
		d := sha256.Sum256(cert.Raw)
		h.Write(d[:])
	}
	return ident.Base36(h.Sum(nil), DigestLen)
}

// RootDigest identifies one root: the SHA-256 of its certificate in base36.
func RootDigest(root *x509.Certificate) string {
	d := sha256.Sum256(root.Raw)
	return ident.Base36(d[:], DigestLen)
}

func unique(certs []*x509.Certificate) []*x509.Certificate {
	slices.SortFunc(certs, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(certs, func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) })
}
