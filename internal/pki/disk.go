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

// NewCredential refuses a pair that does not belong together.
func NewCredential(cert *x509.Certificate, key *ecdsa.PrivateKey) (Credential, error) {
	if cert == nil || key == nil || !key.PublicKey.Equal(cert.PublicKey) {
		return Credential{}, errdefs.ErrInvalidArgument.WithMessage("credential: the key is not that of the certificate")
	}
	return Credential{Cert: cert, Key: key}, nil
}

// ParseCredential reads what PEM wrote.
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

// PEM writes the certificate and then the key. It is a secret.
func (c Credential) PEM() []byte { return append(EncodeCert(c.Cert), EncodeKey(c.Key)...) }

// TLS is the credential as crypto/tls wants it; chain certificates follow the credential's own.
func (c Credential) TLS(chain ...*x509.Certificate) tls.Certificate {
	out := tls.Certificate{Certificate: [][]byte{c.Cert.Raw}, PrivateKey: c.Key, Leaf: c.Cert}
	for _, cert := range chain {
		out.Certificate = append(out.Certificate, cert.Raw)
	}
	return out
}

// Disk keeps a credential and the roots it is verified with in a folder. Certificate and key share one file, so that a
// crash never leaves a new one of the first with an old one of the second.
type Disk struct {
	Dir string // made with mode 0700 when missing
}

const (
	credentialFile = "credential.pem"
	rootsFile      = "roots.pem"
)

// Save writes the roots, then the credential; each replaces its predecessor at once, is for the owner alone, and is on
// the disk when Save returns.
func (d Disk) Save(c Credential, roots *Bundle) error {
	if err := d.SaveRoots(roots); err != nil {
		return err
	}
	return d.write(credentialFile, c.PEM())
}

// SaveRoots replaces the roots alone.
func (d Disk) SaveRoots(roots *Bundle) error { return d.write(rootsFile, roots.PEM()) }

// Load reads both files; errdefs.ErrNotFound when the folder holds no credential.
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

// Remove deletes both files. What is not there is no error.
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
