package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
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
	if noResolve {
		if row, ok := s.store.View().ImageByName(img.Name); ok {
			img.Digest = row.GetDigest()
			c.Image = img.String()
		}
		return nil, nil
	}
	digest, warning, err := s.digestOf(ctx, img, auth)
	switch {
	case errdefs.IsNotFound(err):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry does not have it: check the name, or load it with `docker save %s | swarm image load`", img.Familiar(), img.Familiar()))
	case err != nil:
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry refuses to tell of it, so that it does not exist or needs a login: check the name, or run `swarm login %s` and create the service with --with-registry-auth", img.Familiar(), registryOf(img.Name)))
	case warning != "":
		return []string{warning}, nil
	}
	img.Digest = digest
	c.Image = img.String()
	return nil, nil
}

// digestOf finds what a name without digest means now: the image that was loaded under it, what its registry has, or what
// the cluster has when the registry cannot be asked. Without a digest, warning says why there is none: each node then asks
// the registry for itself. ErrNotFound, ErrUnauthenticated and ErrPermissionDenied are the registry's answers.
func (s *Server) digestOf(ctx context.Context, img spec.Image, auth string) (digest, warning string, err error) {
	row, known := s.store.View().ImageByName(img.Name)
	if known && row.GetLoaded() { // No registry knows better.
		return row.GetDigest(), "", nil
	}
	digest, err = s.resolve(ctx, img, auth)
	switch {
	case err == nil:
		return digest, "", nil
	case known:
		s.log.Info("image pinned as the cluster has it", "image", img.Name, "err", err)
		return row.GetDigest(), "", nil
	case errdefs.IsNotFound(err), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return "", "", err
	}
	s.log.Info("image not resolved", "image", img.Name, "err", err)
	return "", fmt.Sprintf(
		"image %s could not be accessed on a registry to record its digest (%s). Each node will access %s independently, possibly leading to different nodes running different versions of the image.",
		img.Familiar(), reason(img, err), img.Familiar()), nil
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
	digest, err := s.deps.Resolver.Resolve(ctx, img.Name, auth)
	if err == nil && !bounds.IsDigest(digest) {
		return "", errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("registry %s names no valid digest", registryOf(img.Name)))
	}
	return digest, err
}
