//go:build linux

package image

import (
	"context"

	"swarm/containerd/image/registry"
	"swarm/internal/spec"
)

// Resolve asks the registry which digest a reference has now. auth is a header X-Registry-Auth,
// which may be empty. ErrNotFound, ErrUnauthenticated and ErrPermissionDenied are the registry's
// answers; ErrUnavailable: the registry could not be asked, which is transient.
func (s *Store) Resolve(ctx context.Context, ref, auth string) (string, error) {
	parsed, err := spec.ParseImage(ref)
	if err != nil {
		return "", err
	}
	given, err := registry.ParseCredentials(auth)
	if err != nil {
		return "", err
	}
	digest, err := s.registry.Digest(ctx, parsed, given)
	if err != nil {
		return "", registry.PullError(parsed, err, registry.PeersHaveNot)
	}
	return digest, nil
}

// Login asks a registry, HOST[:PORT], whether it accepts the credentials in auth, a header
// X-Registry-Auth. ErrUnauthenticated: it does not.
func (s *Store) Login(ctx context.Context, server, auth string) error {
	return s.registry.Login(ctx, server, auth)
}
