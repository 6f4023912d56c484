package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
)

// Kind is the kind of the holder of a certificate. The certificate encodes it in its organizational
// unit (OU): "user" for a user, "swarm-manager" for a manager certificate, and no OU for a node
// certificate. The credential of a user can therefore never act as a node.
type Kind int

const (
	// KindUnknown means that there is no verified certificate.
	KindUnknown Kind = iota
	// KindNode is a member host. Its certificate is valid for the client and for the server of a
	// connection.
	KindNode
	// KindUser is a person or a program with a credential from `swarm credential create`. Its
	// certificate is valid for the client of a connection only.
	KindUser
)

const (
	userUnit = "user"
	// managerUnit is the OU that Docker uses for managers, so an external authority that knows the
	// roles of Docker can sign for us.
	managerUnit = "swarm-manager"
)

// issuedID identifies the extension of a manager certificate that holds the Raft index at which the
// certificate was issued. The identifier is in the UUID arc (ITU-T X.667), which needs no
// registration.
var issuedID = asn1.ObjectIdentifier{2, 25, 1704906243, 1}

// Manager is the content of a manager certificate.
type Manager struct {
	NodeID string
	// Issued is the Raft index of the replica that recorded the node as a manager when the
	// certificate was signed. A replica with a higher index has newer information than the
	// certificate.
	Issued uint64
}

// MinManagerValidity is the shortest validity of a manager certificate. Joiners and remote users
// verify manager certificates, and the clocks of their hosts may be wrong by hours.
const MinManagerValidity = 24 * time.Hour

// String returns the word for the kind in messages and logs.
func (k Kind) String() string {
	switch k {
	case KindNode:
		return "node"
	case KindUser:
		return "user"
	default:
		return "unknown"
	}
}

// CreateCSR makes a certificate signing request in PEM. The request contains only the public key.
// The authority decides which name the certificate gets, so a request cannot ask for the name of
// somebody else.
func CreateCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

// ParseCSR parses a signing request. It returns errdefs.ErrInvalidArgument if the request is not
// signed by its own key or the key is not ECDSA P-256.
func ParseCSR(data []byte) (*x509.CertificateRequest, error) {
	der, err := onePEM(data, pemRequest, "certificate request")
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, badPEM("certificate request", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errdefs.ErrInvalidArgument.WithMessage("certificate request is not for an ECDSA P-256 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("certificate request is not signed by its own key")
	}
	return csr, nil
}

// SignNode issues a node certificate for the key of a signing request. The certificate is valid
// from now-Backdate to now+validity.
func (r *Root) SignNode(csrPEM []byte, nodeID string, validity time.Duration, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckID("node", nodeID); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return r.sign(csrPEM, &x509.Certificate{
		Subject:     pkix.Name{CommonName: nodeID, Organization: []string{r.ClusterID()}},
		DNSNames:    []string{nodeID},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, validity, now)
}

// SignManager issues the certificate with which a node proves that it is a manager. It is for
// joiners and users, which cannot look into the replicated state, and for the Raft connections of
// the other managers. It is valid from now-Backdate to now+validity, or to now+MinManagerValidity
// if validity is shorter. The node keeps its node certificate.
func (r *Root) SignManager(csrPEM []byte, m Manager, validity time.Duration, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckID("node", m.NodeID); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	issued, err := asn1.Marshal(new(big.Int).SetUint64(m.Issued))
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", m.NodeID, err)
	}
	return r.sign(csrPEM, &x509.Certificate{
		Subject:         pkix.Name{CommonName: m.NodeID, Organization: []string{r.ClusterID()}, OrganizationalUnit: []string{managerUnit}},
		DNSNames:        []string{m.NodeID},
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{{Id: issuedID, Value: issued}},
	}, max(validity, MinManagerValidity), now)
}

// issuedIndex reads the Raft index from a manager certificate. The index is 0, which is older than
// every replica, if the certificate has no such extension: an authority that does not know the
// extension signs such certificates. ok is false if the extension is damaged.
func issuedIndex(cert *x509.Certificate) (index uint64, ok bool) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(issuedID) {
			continue
		}
		var n *big.Int
		rest, err := asn1.Unmarshal(e.Value, &n)
		if err != nil || len(rest) > 0 || !n.IsUint64() {
			return 0, false
		}
		return n.Uint64(), true // x509 refuses a certificate with a repeated extension
	}
	return 0, true
}

// SignUser issues the certificate of a user. It is valid for the client of a connection only, and
// never as the certificate of a node.
func (r *Root) SignUser(csrPEM []byte, name string, validity time.Duration, now time.Time) (*x509.Certificate, error) {
	if err := ident.CheckUserName(name); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return r.sign(csrPEM, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{r.ClusterID()}, OrganizationalUnit: []string{userUnit}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, validity, now)
}

func (r *Root) sign(csrPEM []byte, template *x509.Certificate, validity time.Duration, now time.Time) (*x509.Certificate, error) {
	if validity <= 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("sign certificate of %s: validity %s is not positive", template.Subject.CommonName, validity))
	}
	csr, err := ParseCSR(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	template.NotBefore = now.Add(-Backdate)
	template.NotAfter = now.Add(validity)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	cert, err := create(template, r.Cert, csr.PublicKey, r.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	return cert, nil
}

// RenewAt returns when to renew a certificate: after half of its validity, counted from its
// signing. jitter, in [-1, 1], moves that time by up to a tenth of the validity, so that nodes
// which joined together do not renew together.
func RenewAt(cert *x509.Certificate, jitter float64) time.Time {
	signed := cert.NotBefore.Add(Backdate)
	life := cert.NotAfter.Sub(signed)
	jitter = max(-1, min(1, jitter))
	return signed.Add(life/2 + time.Duration(float64(life)/10*jitter))
}

// Serial returns the serial number of a certificate as 32 hexadecimal digits. It is the id of a
// credential of a user.
func Serial(cert *x509.Certificate) string { return fmt.Sprintf("%032x", cert.SerialNumber) }
