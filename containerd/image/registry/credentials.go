//go:build linux

package registry

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Credentials are the content of Docker's header X-Registry-Auth. The zero value stands for none.
// They are comparable.
type Credentials struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// ParseCredentials reads the header X-Registry-Auth: JSON in base64, of either alphabet. An empty
// header stands for no credentials. ErrInvalidArgument: it is not such a header.
func ParseCredentials(header string) (Credentials, error) {
	var c Credentials
	if header == "" {
		return c, nil
	}
	plain := strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(header), "=")
	data, err := base64.RawURLEncoding.DecodeString(plain)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return Credentials{}, errdefs.ErrInvalidArgument.WithMessage("registry credentials are not Docker's X-Registry-Auth (base64 of JSON): log in again with `swarm login`")
	}
	if c.Auth != "" && c.Username == "" {
		pair, err := base64.StdEncoding.DecodeString(c.Auth)
		if err != nil {
			return Credentials{}, errdefs.ErrInvalidArgument.WithMessage("registry credentials have a damaged auth field: log in again with `swarm login`")
		}
		c.Username, c.Password, _ = strings.Cut(string(pair), ":")
	}
	return c, nil
}

// secret returns the pair that containerd's authoriser expects: a name and a password, or no name
// and a token.
func (c Credentials) secret() (user, secret string) {
	if c.IdentityToken != "" {
		return "", c.IdentityToken
	}
	return c.Username, c.Password
}

// keychained asks the keychain for a registry's credentials. It is not an error if there are none.
func keychained(keychain authn.Keychain, registry string) (Credentials, error) {
	reg, err := name.NewRegistry(registry)
	if err != nil {
		return Credentials{}, err
	}
	found, err := keychain.Resolve(reg)
	if err != nil {
		return Credentials{}, err
	}
	cfg, err := found.Authorization()
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{Username: cfg.Username, Password: cfg.Password, IdentityToken: cfg.IdentityToken}, nil
}
