package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// registryPatience bounds how long a create waits for a registry.
const registryPatience = 10 * time.Second

// pin gives the spec's image its digest, so that all nodes run the same: the one that is given, the cluster's own, or the
// registry's. An image that a registry does not know is refused; one that could not be asked for is accepted, with a
// warning, since nodes may be able to fetch it.
func (s *Server) pin(ctx context.Context, sp *swarmv1.ServiceSpec, auth string, noResolve bool) ([]string, error) {
	c := sp.GetTaskTemplate().GetContainerSpec()
	img, err := spec.ParseImage(c.GetImage())
	if err != nil {
		return nil, err
	}
	if img.Digest != "" {
		return nil, nil
	}
	row, ok := s.store.View().ImageByName(img.Name)
	held := func() ([]string, error) {
		img.Digest = row.GetDigest()
		c.Image = img.String()
		return nil, nil
	}
	switch {
	case ok && (row.GetLoaded() || noResolve): // no registry knows better
		return held()
	case noResolve:
		return nil, nil
	}
	digest, err := s.resolve(ctx, img, auth)
	switch {
	case err != nil && ok:
		s.log.Info("image pinned as the cluster has it", "image", img.Name, "err", err)
		return held()
	case err == nil:
		img.Digest = digest
		c.Image = img.String()
		return nil, nil
	case errdefs.IsNotFound(err):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry does not have it: check the name, or load it with `docker save %s | swarm image load`", img.Familiar(), img.Familiar()))
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry refuses to tell of it, so that it does not exist or needs a login: check the name, or run `swarm login %s` and create the service with --with-registry-auth", img.Familiar(), registryOf(img.Name)))
	}
	s.log.Info("image not resolved", "image", img.Name, "err", err)
	return []string{fmt.Sprintf(
		"image %s could not be resolved to a digest (%s): nodes may run different versions of it", img.Familiar(), reason(img, err))}, nil
}

// registryOf is the registry of a normalised name.
func registryOf(name string) string {
	registry, _, _ := strings.Cut(name, "/")
	return registry
}

// reason is why a registry could not be asked; resolvers say what to do as well.
func reason(img spec.Image, err error) string {
	if errdefs.IsUnavailable(err) || errdefs.IsFailedPrecondition(err) {
		return err.Error()
	}
	return "its registry could not be asked: where none is reachable, bring the image with " + spec.LoadHint(img.Name)
}

func (s *Server) resolve(ctx context.Context, img spec.Image, auth string) (string, error) {
	if s.deps.Resolver == nil {
		return "", errdefs.ErrUnavailable.WithMessage("this build asks no registry")
	}
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	return s.deps.Resolver.Resolve(ctx, img.Name, auth)
}
