package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"

	swarmv1 "swarm/proto/swarm/v1"
)

// Credentials for registries come from where `docker login` leaves them.

// dockerConfig is the part of Docker's config.json that holds credentials.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`
	CredHelpers map[string]string     `json:"credHelpers"`
}

type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
}

// authConfig is what X-Registry-Auth carries.
type authConfig struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
}

// dockerHubKey is what Docker calls its own registry in config.json.
const dockerHubKey = "https://index.docker.io/v1/"

// imageAuth is the caller's credentials for the image, "" when there are none. keep leaves them in the spec, for nodes that pull later.
func (a *app) imageAuth(ctx context.Context, s *swarmv1.ServiceSpec, keep bool) (string, error) {
	c := s.GetTaskTemplate().GetContainerSpec()
	auth, err := a.registryAuth(ctx, c.GetImage())
	if err != nil || !keep {
		return auth, err
	}
	if auth == "" {
		fmt.Fprintf(a.Err, "Warning: no credentials for the registry of %s are known: log in with `docker login` first\n", c.GetImage())
		return "", nil
	}
	c.PullOptions = &swarmv1.PullOptions{RegistryAuth: auth}
	return auth, nil
}

// registryAuth encodes the credentials for an image's registry as Docker's X-Registry-Auth.
func (a *app) registryAuth(ctx context.Context, image string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", nil
	}
	host := reference.Domain(ref)
	key := host
	if host == "docker.io" {
		key = dockerHubKey
	}
	cfg, err := a.readDockerConfig()
	if err != nil {
		return "", err
	}
	auth, err := cfg.find(ctx, key)
	if err != nil || auth == nil {
		return "", err
	}
	auth.ServerAddress = key
	b, err := json.Marshal(auth)
	return base64.URLEncoding.EncodeToString(b), err
}

func (a *app) readDockerConfig() (dockerConfig, error) {
	var cfg dockerConfig
	dir := a.Env("DOCKER_CONFIG")
	if dir == "" {
		if home := a.Env("HOME"); home != "" {
			dir = filepath.Join(home, ".docker")
		}
	}
	if dir == "" {
		return cfg, nil
	}
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return cfg, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &cfg)
	}
	if err != nil {
		return cfg, invalid("registry credentials in %s cannot be read: %s; log in again with `docker login`", path, lastClause(err.Error()))
	}
	return cfg, nil
}

// find looks a registry up as Docker does: its own helper, the general helper, the file. nil means there is nothing.
func (c dockerConfig) find(ctx context.Context, key string) (*authConfig, error) {
	helper := c.CredHelpers[key]
	if helper == "" {
		helper = c.CredsStore
	}
	if helper != "" {
		if auth, err := askHelper(ctx, helper, key); err != nil || auth != nil {
			return auth, err
		}
	}
	entry, ok := c.Auths[key]
	for name, e := range c.Auths {
		if !ok && registryHost(name) == registryHost(key) {
			entry, ok = e, true
		}
	}
	if !ok {
		return nil, nil
	}
	auth := &authConfig{Username: entry.Username, Password: entry.Password, IdentityToken: entry.IdentityToken}
	if entry.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
		if err != nil || !ok {
			return nil, invalid("registry credentials for %s are damaged: log in again with `docker login`", key)
		}
		auth.Username, auth.Password = user, password
	}
	if auth.Username == "" && auth.IdentityToken == "" {
		return nil, nil
	}
	return auth, nil
}

// registryHost drops the scheme and path that old entries have.
func registryHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, _, _ := strings.Cut(key, "/")
	return host
}

// askHelper runs docker-credential-HELPER; nil when it knows nothing of the registry.
func askHelper(ctx context.Context, helper, key string) (*authConfig, error) {
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(key)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), "credentials not found") || errors.Is(err, exec.ErrNotFound) {
			return nil, nil
		}
		return nil, fmt.Errorf("ask %s for credentials of %s: %w: %s", program, key, err, strings.TrimSpace(out.String()))
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("ask %s for credentials of %s: %w", program, key, err)
	}
	if got.Username == "<token>" {
		return &authConfig{IdentityToken: got.Secret}, nil
	}
	return &authConfig{Username: got.Username, Password: got.Secret}, nil
}
