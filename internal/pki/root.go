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
	// RootValidity is longer than the life of a cluster, as in Docker: a root is replaced by a
	// rotation, not because it expires.
	RootValidity = 20 * 365 * 24 * time.Hour
	// DefaultValidity is the validity of node and user certificates, as in Docker.
	DefaultValidity = 90 * 24 * time.Hour
	// Backdate is how long before its signing a certificate becomes valid. A host whose clock is
	// behind by less than Backdate accepts the certificate.
	Backdate = time.Hour

	rootName   = "swarm-ca"
	pemCert    = "CERTIFICATE"
	pemKey     = "PRIVATE KEY"
	pemRequest = "CERTIFICATE REQUEST"
	// maxPEM limits the PEM that is parsed from a peer or a file, in bytes. A bundle of two roots
	// and a cross certificate has 2 KiB.
	maxPEM = 64 << 10
)

// Root is a certificate authority with its private key. Only managers hold a Root; all other
// members hold a Bundle.
type Root struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CreateRoot makes a new root for a cluster. The root is valid from now-Backdate to
// now+RootValidity.
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

// ParseRoot parses the output of CertPEM and KeyPEM. It returns errdefs.ErrInvalidArgument if the
// certificate is not a root or the key is not its key.
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

// CertPEM returns the certificate of the root in PEM.
func (r *Root) CertPEM() []byte { return EncodeCert(r.Cert) }

// KeyPEM returns the private key of the root in PEM, unencrypted. It may be stored only in the
// replicated store, which is encrypted at rest.
func (r *Root) KeyPEM() []byte { return EncodeKey(r.key) }

// ClusterID returns the id of the cluster to which the root belongs.
func (r *Root) ClusterID() string { return first(r.Cert.Subject.Organization) }

// CrossSign signs the next root with this root, so that peers that know only this root can verify
// certificates of the next root. During the rotation, the bundle contains both roots and the
// result.
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

// create sets a random serial number in the template and signs it.
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

// isRoot reports whether cert is a self-signed authority.
func isRoot(cert *x509.Certificate) bool {
	return cert.IsCA && cert.BasicConstraintsValid && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// NewKey makes an ECDSA P-256 key for a root, node or user.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// EncodeKey returns a private key as PKCS#8 in PEM.
func EncodeKey(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("pki: a P-256 key cannot be encoded: " + err.Error()) // NewKey and ParseKey return P-256 keys only
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
}

// ParseKey parses the output of EncodeKey. It returns errdefs.ErrInvalidArgument if the key is not
// ECDSA P-256.
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

// EncodeCert returns a certificate in PEM.
func EncodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert.Raw})
}

// ParseCert parses PEM that contains exactly one certificate.
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

// onePEM returns the content of the only PEM block in data, which must have the given type.
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
