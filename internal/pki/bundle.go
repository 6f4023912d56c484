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
	// DigestLen is the length of a digest: SHA-256 in base36.
	DigestLen = 50
	// maxBundle bounds the certificates of a bundle; a rotation needs three.
	maxBundle = 16
)

// Bundle is the set of roots that a member trusts, and during a rotation the cross certificates that link them.
// It is immutable.
type Bundle struct {
	roots  []*x509.Certificate // in the order of their bytes, so that equal sets have equal digests
	cross  []*x509.Certificate // likewise
	pool   *x509.CertPool
	digest string
}

// NewBundle sorts the certificates into roots and cross certificates and refuses anything else, an empty set of roots,
// and roots of different clusters.
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

// ParseBundle reads what PEM wrote.
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

// PEM writes the bundle, roots first. Equal bundles give equal bytes.
func (b *Bundle) PEM() []byte {
	var out []byte
	for _, cert := range b.Certs() {
		out = append(out, EncodeCert(cert)...)
	}
	return out
}

// Certs are all certificates: roots, then cross certificates.
func (b *Bundle) Certs() []*x509.Certificate { return slices.Concat(b.roots, b.cross) }

// Roots are the trusted roots. Read only.
func (b *Bundle) Roots() []*x509.Certificate { return b.roots }

// Cross are the cross certificates of a running rotation, which a server presents after its own. Read only.
func (b *Bundle) Cross() []*x509.Certificate { return b.cross }

// ClusterID is the cluster of the bundle's roots.
func (b *Bundle) ClusterID() string { return first(b.roots[0].Subject.Organization) }

// Digest names the whole bundle: members report it, and so the authority knows who has which.
func (b *Bundle) Digest() string { return b.digest }

// Find returns the root with the given digest, as it stands in a join token.
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

// RootDigest names one root: base36 of the SHA-256 of the certificate.
func RootDigest(root *x509.Certificate) string {
	d := sha256.Sum256(root.Raw)
	return ident.Base36(d[:], DigestLen)
}

func unique(certs []*x509.Certificate) []*x509.Certificate {
	slices.SortFunc(certs, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(certs, func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) })
}
