package control

import (
	"context"
	"fmt"
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
	if row, ok := s.store.View().ImageByName(img.Name); ok {
		img.Digest = row.GetDigest()
		c.Image = img.String()
		return nil, nil
	}
	if noResolve {
		return nil, nil
	}
	digest, err := s.resolve(ctx, img, auth)
	switch {
	case err == nil:
		img.Digest = digest
		c.Image = img.String()
		return nil, nil
	case errdefs.IsNotFound(err):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry does not have it: check the name, or load it with `docker save %s | swarm image load`", img.Familiar(), img.Familiar()))
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry refuses to tell of it, so that it does not exist or needs a login: check the name, or run `docker login` and create the service with --with-registry-auth", img.Familiar()))
	}
	s.log.Info("image not resolved", "image", img.Name, "err", err)
	return []string{fmt.Sprintf(
		"image %s could not be resolved to a digest: its registry could not be asked: nodes may run different versions of it; where no registry is reachable, run `docker save %s | swarm image load`", img.Familiar(), img.Familiar())}, nil
}

func (s *Server) resolve(ctx context.Context, img spec.Image, auth string) (string, error) {
	if s.deps.Resolver == nil {
		return "", errdefs.ErrUnavailable.WithMessage("this build asks no registry")
	}
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	return s.deps.Resolver.Resolve(ctx, img.Name, auth)
}
