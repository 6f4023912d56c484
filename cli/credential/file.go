package credential

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
)

// writeSecretFile writes a new file that only its owner may read. It is an error if the file
// exists.
func writeSecretFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write credential: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("write credential %s: %w", path, err), os.Remove(path))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// Encode returns the text of a credential file: the certificate, its key, and the cluster's root
// certificates, in PEM. The text is a secret.
func Encode(c pki.Credential, roots *pki.Bundle) []byte {
	return append(c.PEM(), roots.PEM()...)
}

// Decode parses what Encode returned. It returns an invalid argument error if there is no private
// key.
func Decode(data []byte) (pki.Credential, *pki.Bundle, error) {
	end := []byte("PRIVATE KEY-----\n")
	at := bytes.LastIndex(data, end)
	if at < 0 {
		return pki.Credential{}, nil, errdefs.ErrInvalidArgument.WithMessage("credential holds no private key: create one with `swarm credential create`")
	}
	at += len(end)
	c, err := pki.ParseCredential(data[:at])
	if err != nil {
		return pki.Credential{}, nil, err
	}
	roots, err := pki.ParseBundle(data[at:])
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("credential's roots: %w", err)
	}
	return c, roots, nil
}

// Read reads and parses a credential file. A file that does not exist is an unauthenticated error,
// which says how to create one.
func Read(path string) (pki.Credential, *pki.Bundle, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pki.Credential{}, nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
			"no client certificate at %s, which a remote daemon asks for: create one with `swarm credential create NAME` on a manager, and name it with --credential", path))
	}
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("read credential: %w", err)
	}
	c, roots, err := Decode(data)
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("credential %s: %w", path, err)
	}
	return c, roots, nil
}
