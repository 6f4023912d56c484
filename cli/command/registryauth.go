package command

import (
	"context"
	"path/filepath"

	"github.com/distribution/reference"

	"swarm/internal/keychain"
)

// RegistryAuth returns the user's credentials for the registry of an image, encoded as Docker's
// header X-Registry-Auth, or "" if there are none.
func RegistryAuth(ctx context.Context, deps *Deps, image string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", nil // The daemon reports what is wrong with the reference.
	}
	keys, err := Keychain(deps)
	if err != nil {
		return "", err
	}
	c, err := keys.Find(ctx, keychain.Key(reference.Domain(ref)))
	if err != nil || c == nil {
		return "", err
	}
	return c.Header()
}

// Keychain opens Docker's configuration, in the folder that DOCKER_CONFIG names, else in ~/.docker.
func Keychain(deps *Deps) (*keychain.File, error) {
	dir := deps.Env("DOCKER_CONFIG")
	if dir == "" {
		if home := deps.Env("HOME"); home != "" {
			dir = filepath.Join(home, ".docker")
		}
	}
	return keychain.Open(dir)
}
