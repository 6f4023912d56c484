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

// A helper is a program docker-credential-NAME. It takes a verb as its argument, reads one document
// from its standard input and writes one to its standard output.

// tokenUser is the username with which the secret is an identity token.
const tokenUser = "<token>"

type secret struct{ ServerURL, Username, Secret string }

// get asks a helper for credentials. It returns nil if the helper has none for the registry, or is
// not installed, as Docker does.
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

// run returns the standard output of the helper, which has the reason if the helper fails.
func run(ctx context.Context, helper, verb, key string, in []byte) ([]byte, error) {
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		if reason := strings.TrimSpace(string(out)); reason != "" {
			err = fmt.Errorf("%w: %s", err, reason)
		}
		return out, fmt.Errorf("%s %s %s: %w", program, verb, key, err)
	}
	return out, nil
}
