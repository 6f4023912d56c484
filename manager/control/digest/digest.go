// Package digest finds the digest that the name of an image stands for now, so that all nodes run
// the same image. Finder.Find takes the digest of an image that was loaded under the name. If there
// is none, it asks the registry. If the registry gives no digest, it takes the digest that the
// cluster has under the name.
//
// The package stores nothing; its callers do. These are the packages service and image. It starts
// no goroutine.
package digest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/spec"
	"swarm/raftstore"
)

// registryTimeout limits how long a call waits for a registry.
const registryTimeout = 10 * time.Second

// Resolver asks a registry for the digest of a reference. It returns ErrNotFound,
// ErrUnauthenticated or ErrPermissionDenied if the registry answers so, and any other error if the
// registry could not be asked.
type Resolver interface {
	Resolve(ctx context.Context, reference, registryAuth string) (digest string, err error)
}

// Finder finds digests from one manager.
type Finder struct {
	log      *slog.Logger
	store    *raftstore.Store
	resolver Resolver
}

// NewFinder makes a Finder. If resolver is nil, no registry can be asked.
func NewFinder(log *slog.Logger, store *raftstore.Store, resolver Resolver) *Finder {
	return &Finder{log: log, store: store, resolver: resolver}
}

// Find returns the digest of an image whose name has none. If the registry gives no digest, for
// whatever reason, Find returns the digest that the cluster has under the name. If the cluster has
// none, Find returns ErrNotFound, ErrUnauthenticated or ErrPermissionDenied if the registry answers
// so. If the registry cannot be asked, the digest is empty and warning says why: each node then
// asks the registry for itself.
func (f *Finder) Find(ctx context.Context, img spec.Image, auth string) (digest, warning string, err error) {
	row, known := f.store.View().Images.ByName(img.Name)
	if known && row.GetLoaded() { // No registry has it.
		return row.GetDigest(), "", nil
	}
	digest, err = f.resolve(ctx, img, auth)
	switch {
	case err == nil:
		return digest, "", nil
	case known:
		f.log.Info("image pinned as the cluster has it", "image", img.Name, "err", err)
		return row.GetDigest(), "", nil
	case errdefs.IsNotFound(err), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return "", "", err
	}
	f.log.Info("image not resolved", "image", img.Name, "err", err)
	return "", fmt.Sprintf(
		"image %s could not be accessed on a registry to record its digest (%s). Each node will access %s independently, possibly leading to different nodes running different versions of the image.",
		img.Familiar(), reason(img, err), img.Familiar()), nil
}

// Registry returns the registry of a normalised name.
func Registry(name string) string {
	registry, _, _ := strings.Cut(name, "/")
	return registry
}

// reason returns why a registry could not be asked, and what to do.
func reason(img spec.Image, err error) string {
	if errdefs.IsUnavailable(err) || errdefs.IsFailedPrecondition(err) {
		return err.Error() // Resolvers say in these what to do.
	}
	return "its registry could not be asked: where none is reachable, bring the image with " + spec.LoadHint(img.Name)
}

func (f *Finder) resolve(ctx context.Context, img spec.Image, auth string) (string, error) {
	if f.resolver == nil {
		return "", errdefs.ErrUnavailable.WithMessage("this build asks no registry")
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	digest, err := f.resolver.Resolve(ctx, img.Name, auth)
	if err == nil && !bounds.IsDigest(digest) {
		return "", errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("registry %s names no valid digest", Registry(img.Name)))
	}
	return digest, err
}
