package service

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/manager/control/digest"
	swarmv1 "swarm/proto/swarm/v1"
)

// pin adds a digest to the image of a spec, so that all nodes run the same image. An image that has
// a digest keeps it. With noResolve, pin takes the digest that the cluster has under the name, and
// asks no registry. pin returns an error if neither the registry nor the cluster has the image. If
// the registry cannot be asked, pin returns a warning instead, because the nodes may be able to
// fetch the image.
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
		if row, ok := s.store.View().Images.ByName(img.Name); ok {
			img.Digest = row.GetDigest()
			c.Image = img.String()
		}
		return nil, nil
	}
	pinned, warning, err := s.digests.Find(ctx, img, auth)
	switch {
	case errdefs.IsNotFound(err):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry does not have it: check the name, or load it with `docker save %s | swarm image load`", img.Familiar(), img.Familiar()))
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"unknown image %s: its registry denies access, so it does not exist or needs a login: check the name, or run `swarm login %s` and create the service with --with-registry-auth", img.Familiar(), digest.Registry(img.Name)))
	case err != nil:
		return nil, fmt.Errorf("find the digest of image %s: %w", img.Familiar(), err)
	case warning != "":
		return []string{warning}, nil
	}
	img.Digest = pinned
	c.Image = img.String()
	return nil, nil
}
