//go:build linux

package image

import (
	"context"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"swarm/internal/spec"
)

const (
	// dialPatience bounds finding and connecting to a registry: a cluster without one must learn so soon.
	dialPatience = 3 * time.Second
	// answerPatience bounds the wait for an answer's header.
	answerPatience = 15 * time.Second
)

// resolver speaks to the registry of one image, and to its mirrors.
func (s *Store) resolver(ref spec.Image, given credentials) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: s.hosts(s.secrets(ref, given))})
}

// secrets gives the caller's credentials to the image's registry and no other; every other host, and a caller without,
// has what Docker's configuration on this node holds.
func (s *Store) secrets(ref spec.Image, given credentials) func(string) (string, string, error) {
	registry := domain(ref.Name)
	return func(host string) (string, string, error) {
		own, err := docker.DefaultHost(registry)
		if err != nil {
			return "", "", err
		}
		if host == own {
			host = registry
			if given != (credentials{}) {
				user, secret := given.secret()
				return user, secret, nil
			}
		}
		found, err := keychained(s.deps.Keychain, host)
		if err != nil {
			// A public image needs none; what needs them says so.
			s.log.Warn("credentials of a registry not found", "registry", host, "err", err)
		}
		user, secret := found.secret()
		return user, secret, nil
	}
}

// Resolve asks the registry which digest a reference has now; X-Registry-Auth may be empty. ErrNotFound,
// ErrUnauthenticated and ErrPermissionDenied are the registry's answers; ErrUnavailable: it could not be asked.
func (s *Store) Resolve(ctx context.Context, ref, auth string) (string, error) {
	parsed, err := spec.ParseImage(ref)
	if err != nil {
		return "", err
	}
	given, err := parseCredentials(auth)
	if err != nil {
		return "", err
	}
	digest, err := s.resolve(ctx, parsed, given)
	if err != nil {
		return "", explain(parsed, err, peersHaveNot)
	}
	return digest, nil
}

func (s *Store) resolve(ctx context.Context, ref spec.Image, given credentials) (string, error) {
	at := ref.Name
	if ref.Digest != "" {
		at = repository(ref.Name) + "@" + ref.Digest
	}
	_, desc, err := s.resolver(ref, given).Resolve(quiet(ctx), at)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), nil
}

// quiet keeps containerd's client from logging on its own: what matters comes back as an error.
func quiet(ctx context.Context) context.Context {
	return log.WithLogger(ctx, logrus.NewEntry(&logrus.Logger{Out: io.Discard, Formatter: &logrus.TextFormatter{}, Level: logrus.PanicLevel}))
}
