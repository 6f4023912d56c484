package cli

import (
	"context"
	"path/filepath"

	"github.com/distribution/reference"

	"swarm/cli/term"
	"swarm/internal/keychain"
	swarmv1 "swarm/proto/swarm/v1"
)

// Credentials for registries come from where `docker login` and `swarm login` leave them.

// imageAuth is the caller's credentials for the image, "" when there are none. keep leaves them in the spec, for nodes that pull later.
func (a *app) imageAuth(ctx context.Context, s *swarmv1.ServiceSpec, keep bool) (string, error) {
	c := s.GetTaskTemplate().GetContainerSpec()
	auth, err := a.registryAuth(ctx, c.GetImage())
	if err != nil || !keep {
		return auth, err
	}
	if auth == "" {
		term.Printf(a.Err, "Warning: no credentials for the registry of %s are known: log in with `swarm login` first\n", c.GetImage())
		return "", nil
	}
	c.PullOptions = &swarmv1.PullOptions{RegistryAuth: auth}
	return auth, nil
}

// registryAuth encodes the credentials for an image's registry as Docker's X-Registry-Auth.
func (a *app) registryAuth(ctx context.Context, image string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", nil // the daemon says what is wrong with it
	}
	keys, err := a.keychain()
	if err != nil {
		return "", err
	}
	c, err := keys.Find(ctx, keychain.Key(reference.Domain(ref)))
	if err != nil || c == nil {
		return "", err
	}
	return c.Header()
}

// keychain is Docker's: the folder that DOCKER_CONFIG names, else ~/.docker.
func (a *app) keychain() (*keychain.File, error) {
	dir := a.Env("DOCKER_CONFIG")
	if dir == "" {
		if home := a.Env("HOME"); home != "" {
			dir = filepath.Join(home, ".docker")
		}
	}
	return keychain.Open(dir)
}
