package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
)

// Credential is a certificate with its private key.
type Credential struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCredential makes a Credential. It returns errdefs.ErrInvalidArgument if the key is not the key
// of the certificate.
func NewCredential(cert *x509.Certificate, key *ecdsa.PrivateKey) (Credential, error) {
	if cert == nil || key == nil || !key.PublicKey.Equal(cert.PublicKey) {
		return Credential{}, errdefs.ErrInvalidArgument.WithMessage("credential: the key is not that of the certificate")
	}
	return Credential{Cert: cert, Key: key}, nil
}

// ParseCredential parses the output of Credential.PEM.
func ParseCredential(data []byte) (Credential, error) {
	at := bytes.Index(data, []byte("-----BEGIN "+pemKey))
	if at < 0 {
		return Credential{}, errdefs.ErrInvalidArgument.WithMessage("credential holds no private key")
	}
	cert, err := ParseCert(data[:at])
	if err != nil {
		return Credential{}, fmt.Errorf("credential: %w", err)
	}
	key, err := ParseKey(data[at:])
	if err != nil {
		return Credential{}, fmt.Errorf("credential: %w", err)
	}
	return NewCredential(cert, key)
}

// PEM returns the certificate and then the private key in PEM. The result is a secret.
func (c Credential) PEM() []byte { return append(EncodeCert(c.Cert), EncodeKey(c.Key)...) }

// TLS returns the credential as a tls.Certificate. The chain certificates follow the certificate of
// the credential.
func (c Credential) TLS(chain ...*x509.Certificate) tls.Certificate {
	out := tls.Certificate{Certificate: [][]byte{c.Cert.Raw}, PrivateKey: c.Key, Leaf: c.Cert}
	for _, cert := range chain {
		out.Certificate = append(out.Certificate, cert.Raw)
	}
	return out
}

// Disk stores a credential, and the roots that verify it, in a folder. The certificate and the key
// share one file, so a crash cannot leave a new certificate beside an old key.
type Disk struct {
	Dir string // created with mode 0700 if it does not exist
}

const (
	credentialFile = "credential.pem"
	rootsFile      = "roots.pem"
)

// Save writes the roots and then the credential. Each file is replaced atomically, is readable by
// its owner only, and is durable when Save returns.
func (d Disk) Save(c Credential, roots *Bundle) error {
	if err := d.SaveRoots(roots); err != nil {
		return err
	}
	return d.write(credentialFile, c.PEM())
}

// SaveRoots replaces the roots and leaves the credential as it is.
func (d Disk) SaveRoots(roots *Bundle) error { return d.write(rootsFile, roots.PEM()) }

// Load reads the credential and the roots. It returns errdefs.ErrNotFound if either file is
// missing.
func (d Disk) Load() (Credential, *Bundle, error) {
	raw, err := d.read(credentialFile)
	if err != nil {
		return Credential{}, nil, err
	}
	c, err := ParseCredential(raw)
	if err != nil {
		return Credential{}, nil, fmt.Errorf("load %s: %w", filepath.Join(d.Dir, credentialFile), err)
	}
	if raw, err = d.read(rootsFile); err != nil {
		return Credential{}, nil, err
	}
	roots, err := ParseBundle(raw)
	if err != nil {
		return Credential{}, nil, fmt.Errorf("load %s: %w", filepath.Join(d.Dir, rootsFile), err)
	}
	return c, roots, nil
}

// Remove deletes both files. A missing file is not an error.
func (d Disk) Remove() error {
	for _, name := range []string{credentialFile, rootsFile} {
		if err := os.Remove(filepath.Join(d.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove credential: %w", err)
		}
	}
	return nil
}

func (d Disk) read(name string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(d.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s does not exist", filepath.Join(d.Dir, name)))
	}
	return raw, err
}

func (d Disk) write(name string, data []byte) error {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(d.Dir, name), data, 0o600); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	return nil
}
