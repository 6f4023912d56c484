package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// RootValidity outlives the machines of a cluster, as in Docker: a root ends by rotation, never by date.
	RootValidity = 20 * 365 * 24 * time.Hour
	// DefaultValidity of node and user certificates, as in Docker.
	DefaultValidity = 90 * 24 * time.Hour
	// Backdate is how far before the signing a certificate becomes valid, so that a host whose clock is behind by less
	// accepts it.
	Backdate = time.Hour

	rootName   = "swarm-ca"
	pemCert    = "CERTIFICATE"
	pemKey     = "PRIVATE KEY"
	pemRequest = "CERTIFICATE REQUEST"
	// maxPEM bounds what is parsed from a peer or a file: a bundle of two roots and a cross certificate is 2 KiB.
	maxPEM = 64 << 10
)

// Root is a certificate authority with its private key. Only managers hold one; everyone else has a Bundle.
type Root struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CreateRoot makes a fresh root of a cluster, valid from Backdate before now for RootValidity.
func CreateRoot(clusterID string, now time.Time) (*Root, error) {
	if clusterID == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("create root: the cluster id is empty")
	}
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("create root: %w", err)
	}
	template := caTemplate(pkix.Name{CommonName: rootName, Organization: []string{clusterID}}, now.Add(RootValidity), now)
	cert, err := create(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("create root: %w", err)
	}
	return &Root{Cert: cert, key: key}, nil
}

// ParseRoot reads what CertPEM and KeyPEM wrote, and refuses a pair that does not belong together.
func ParseRoot(certPEM, keyPEM []byte) (*Root, error) {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("parse root: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parse root: %w", err)
	}
	if !isRoot(cert) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("parse root: the certificate is not a self-signed authority")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("parse root: the key is not that of the certificate")
	}
	return &Root{Cert: cert, key: key}, nil
}

// CertPEM is the root's certificate.
func (r *Root) CertPEM() []byte { return EncodeCert(r.Cert) }

// KeyPEM is the root's private key, in the clear: it may stand only in the replicated store, which is encrypted at rest.
func (r *Root) KeyPEM() []byte { return EncodeKey(r.key) }

// ClusterID is the cluster that the root vouches for.
func (r *Root) ClusterID() string { return first(r.Cert.Subject.Organization) }

// CrossSign certifies the next root by this one, so that peers which know only this root can verify certificates of the
// next. The result belongs into the bundle beside both roots for as long as the rotation lasts.
func (r *Root) CrossSign(next *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if !isRoot(next) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("cross-sign root: the certificate is not a self-signed authority")
	}
	if first(next.Subject.Organization) != r.ClusterID() {
		return nil, errdefs.ErrInvalidArgument.WithMessage("cross-sign root: the certificate is of another cluster")
	}
	until := next.NotAfter
	if r.Cert.NotAfter.Before(until) {
		until = r.Cert.NotAfter
	}
	template := caTemplate(next.Subject, until, now)
	template.SubjectKeyId = next.SubjectKeyId
	cert, err := create(template, r.Cert, next.PublicKey, r.key)
	if err != nil {
		return nil, fmt.Errorf("cross-sign root: %w", err)
	}
	return cert, nil
}

func caTemplate(subject pkix.Name, until, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               subject,
		NotBefore:             now.Add(-Backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // one cross certificate, during a rotation
	}
}

// create gives the template a random serial and signs it.
func create(template, parent *x509.Certificate, public any, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // RFC 5280: positive
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// isRoot reports whether cert is an authority that signed itself.
func isRoot(cert *x509.Certificate) bool {
	return cert.IsCA && cert.BasicConstraintsValid && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// NewKey makes the private key of a root, node or user: ECDSA P-256.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// EncodeKey writes a private key as PKCS#8 in PEM.
func EncodeKey(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("pki: a P-256 key cannot be encoded: " + err.Error()) // NewKey and ParseKey let no other kind in
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
}

// ParseKey reads what EncodeKey wrote.
func ParseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := onePEM(data, pemKey, "private key")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, badPEM("private key", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errdefs.ErrInvalidArgument.WithMessage("private key is not ECDSA P-256")
	}
	return key, nil
}

// EncodeCert writes a certificate in PEM.
func EncodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert.Raw})
}

// ParseCert reads exactly one certificate in PEM.
func ParseCert(data []byte) (*x509.Certificate, error) {
	der, err := onePEM(data, pemCert, "certificate")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, badPEM("certificate", err)
	}
	return cert, nil
}

// onePEM returns the content of the only block in data, which must be of the given kind.
func onePEM(data []byte, kind, what string) ([]byte, error) {
	if len(data) > maxPEM {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is too long: %d bytes", what, len(data)))
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not in PEM", what))
	}
	if extra, _ := pem.Decode(rest); extra != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is followed by another PEM block", what))
	}
	return block.Bytes, nil
}

func badPEM(what string, err error) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s cannot be read: %v", what, err))
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
