package keychain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// The protocol of docker-credential-NAME: a verb as argument, one document on each standard stream.

// tokenUser is the name that stands for a token in place of a password.
const tokenUser = "<token>"

type secret struct{ ServerURL, Username, Secret string }

// get asks a helper; nil when it knows nothing of the registry, or is not installed: Docker goes on without too.
func get(ctx context.Context, helper, key string) (*Credentials, error) {
	out, err := run(ctx, helper, "get", key, []byte(key))
	if err != nil {
		if strings.Contains(string(out), "credentials not found") || errors.Is(err, exec.ErrNotFound) {
			return nil, nil
		}
		return nil, err
	}
	var got secret
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, fmt.Errorf("docker-credential-%s get %s: %w", helper, key, err)
	}
	if got.Username == tokenUser {
		return &Credentials{IdentityToken: got.Secret, ServerAddress: key}, nil
	}
	return &Credentials{Username: got.Username, Password: got.Secret, ServerAddress: key}, nil
}

func put(ctx context.Context, helper, key string, c Credentials) error {
	s := secret{ServerURL: key, Username: c.Username, Secret: c.Password}
	if c.IdentityToken != "" {
		s.Username, s.Secret = tokenUser, c.IdentityToken
	}
	in, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = run(ctx, helper, "store", key, in)
	return err
}

func erase(ctx context.Context, helper, key string) error {
	_, err := run(ctx, helper, "erase", key, []byte(key))
	return err
}

// run gives what the helper wrote, also when it failed: it says there why.
func run(ctx context.Context, helper, verb, key string, in []byte) ([]byte, error) {
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		if said := strings.TrimSpace(string(out)); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return out, fmt.Errorf("%s %s %s: %w", program, verb, key, err)
	}
	return out, nil
}
