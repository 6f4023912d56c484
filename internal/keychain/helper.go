package keychain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// A helper is a program with the name docker-credential-NAME. Package client, which is a library of
// Docker, speaks its protocol.

// tokenUser is the username with which the secret is an identity token.
const tokenUser = "<token>"

// get asks a helper for credentials. It returns nil if the helper has none for the registry, or is
// not installed.
func get(ctx context.Context, helper, key string) (*Credentials, error) {
	p := &program{helper: helper}
	got, err := client.Get(p.in(ctx), key)
	switch {
	case credentials.IsErrCredentialsNotFound(err), errors.Is(p.err, exec.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, p.failed("get", key, err)
	case got.Username == tokenUser:
		return &Credentials{IdentityToken: got.Secret, ServerAddress: key}, nil
	}
	return &Credentials{Username: got.Username, Password: got.Secret, ServerAddress: key}, nil
}

func put(ctx context.Context, helper, key string, c Credentials) error {
	stored := &credentials.Credentials{ServerURL: key, Username: c.Username, Secret: c.Password}
	if c.IdentityToken != "" {
		stored.Username, stored.Secret = tokenUser, c.IdentityToken
	}
	p := &program{helper: helper}
	return p.failed("store", key, client.Store(p.in(ctx), stored))
}

func erase(ctx context.Context, helper, key string) error {
	p := &program{helper: helper}
	return p.failed("erase", key, client.Erase(p.in(ctx), key))
}

// program is a client.Program that runs a helper. The library's own program takes no context, so a
// helper that hangs could not be interrupted.
type program struct {
	helper string
	cmd    *exec.Cmd
	err    error // the error of Output, which the error of the library does not wrap
}

// in returns the function that prepares the helper for the library. The helper is killed when ctx
// ends.
func (p *program) in(ctx context.Context) client.ProgramFunc {
	return func(args ...string) client.Program {
		p.cmd = exec.CommandContext(ctx, "docker-credential-"+p.helper, args...)
		return p
	}
}

// Input implements client.Program.
func (p *program) Input(in io.Reader) { p.cmd.Stdin = in }

// Output implements client.Program.
func (p *program) Output() (out []byte, err error) {
	out, p.err = p.cmd.Output()
	return out, p.err
}

// failed adds the program, the verb and the registry to an error. It returns nil for nil.
func (p *program) failed(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("docker-credential-%s %s %s: %w", p.helper, verb, key, err)
}
