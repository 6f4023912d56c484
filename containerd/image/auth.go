//go:build linux

package image

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// credentials are what Docker's X-Registry-Auth carries.
type credentials struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// parseCredentials reads X-Registry-Auth: base64, of either alphabet, of JSON. Empty is none.
func parseCredentials(header string) (credentials, error) {
	var c credentials
	if header == "" {
		return c, nil
	}
	plain := strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(header), "=")
	data, err := base64.RawURLEncoding.DecodeString(plain)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return credentials{}, errdefs.ErrInvalidArgument.WithMessage("registry credentials are not Docker's X-Registry-Auth (base64 of JSON): log in again with `swarm login`")
	}
	if c.Auth != "" && c.Username == "" {
		pair, err := base64.StdEncoding.DecodeString(c.Auth)
		if err != nil {
			return credentials{}, errdefs.ErrInvalidArgument.WithMessage("registry credentials have a damaged auth field: log in again with `swarm login`")
		}
		c.Username, c.Password, _ = strings.Cut(string(pair), ":")
	}
	return c, nil
}

// secret is the pair that containerd's authoriser understands: a name and a password, or no name and a token.
func (c credentials) secret() (user, secret string) {
	if c.IdentityToken != "" {
		return "", c.IdentityToken
	}
	return c.Username, c.Password
}

// keychained asks Docker's configuration for a registry's credentials. None is no error.
func keychained(keychain authn.Keychain, registry string) (credentials, error) {
	reg, err := name.NewRegistry(registry)
	if err != nil {
		return credentials{}, err
	}
	found, err := keychain.Resolve(reg)
	if err != nil {
		return credentials{}, err
	}
	cfg, err := found.Authorization()
	if err != nil {
		return credentials{}, err
	}
	return credentials{Username: cfg.Username, Password: cfg.Password, IdentityToken: cfg.IdentityToken}, nil
}
