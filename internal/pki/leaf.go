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

// Kind is what a certificate's holder is. It stands in the certificate (a user's has OU "user", a manager's
// "swarm-manager", another node's none), so that a user's credential can never act as a node.
type Kind int

const (
	// KindUnknown is no kind that this build knows; such a certificate proves nothing.
	KindUnknown Kind = iota
	// KindNode is a member host. Its certificate serves both ends of a connection.
	KindNode
	// KindUser is a person or program with a credential of `swarm credential create`. It is a client only.
	KindUser
)

const (
	userUnit = "user"
	// managerUnit is Docker's, so that an external authority which knows Docker's roles can sign for us.
	managerUnit = "swarm-manager"
)

// issuedID is the object identifier of the extension of a manager's certificate that holds the Raft index at which it was
// issued: an UUID arc (ITU-T X.667), which needs no registration.
var issuedID = asn1.ObjectIdentifier{2, 25, 1704906243, 1}

// Manager is what stands in the certificate of a manager.
type Manager struct {
	NodeID string
	// Issued is the index of the replica that said, when the certificate was signed, that the node is a manager. A replica
	// that knows a newer index knows better.
	Issued uint64
}

// MinManagerValidity is the shortest life of a manager's certificate. Joiners and users at a distance check it, and their
// clocks may be wrong by hours.
const MinManagerValidity = 24 * time.Hour

// String is the kind's word in messages and logs.
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

// CreateCSR makes a signing request for a key. It carries the public key alone: who the requester is, the authority
// decides, so a request cannot ask for another's name.
func CreateCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

// ParseCSR reads a signing request and checks that its sender holds the key and that the key is of our kind.
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

// SignNode issues the certificate of a node for the key of a signing request, valid from Backdate before now until
// now+validity.
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

// SignManager issues the certificate with which a node proves that it is a manager: to joiners and users, who have no
// state to look into, and to the Raft of the other managers. It is valid from Backdate before now until now+validity, and
// for no less than MinManagerValidity. The node keeps its node certificate.
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

// issuedOf reads the index out of a manager's certificate. A certificate without one, as an authority that does not know the
// extension signs it, has index 0: every replica knows better. false: the extension is damaged.
func issuedOf(cert *x509.Certificate) (index uint64, ok bool) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(issuedID) {
			continue
		}
		var n *big.Int
		rest, err := asn1.Unmarshal(e.Value, &n)
		if err != nil || len(rest) > 0 || !n.IsUint64() {
			return 0, false
		}
		return n.Uint64(), true // x509 refuses a certificate that has an extension twice
	}
	return 0, true
}

// SignUser issues the certificate of a user. It can be the client of a connection, never the server, and never a node.
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

// RenewAt is when a certificate should be renewed: at half of its life after signing. jitter in [-1, 1] moves that by up
// to a tenth of the life, so that nodes that joined together do not renew together.
func RenewAt(cert *x509.Certificate, jitter float64) time.Time {
	signed := cert.NotBefore.Add(Backdate)
	life := cert.NotAfter.Sub(signed)
	jitter = max(-1, min(1, jitter))
	return signed.Add(life/2 + time.Duration(float64(life)/10*jitter))
}

// Serial is the serial number of a certificate as text: 32 hexadecimal digits. It is the id of a
// user's credential.
func Serial(cert *x509.Certificate) string { return fmt.Sprintf("%032x", cert.SerialNumber) }
