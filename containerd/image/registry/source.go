//go:build linux

package registry

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/watchdog"
	"swarm/internal/spec"
)

// Source delivers the blobs of one image from its registry. It is safe for concurrent use.
type Source struct {
	name     string
	resolver remotes.Resolver
}

// Source returns the registry of an image as a source of its blobs. Nothing is asked yet.
func (c *Client) Source(ref spec.Image, given Credentials) *Source {
	return &Source{name: ref.Name, resolver: c.resolver(ref, given)}
}

// String names the registry.
func (r *Source) String() string { return "registry " + domain(r.name) }

// Root opens the index or manifest with a digest. For the errors, see Class.
func (r *Source) Root(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	_, desc, err := r.resolver.Resolve(Quiet(ctx), repository(r.name)+"@"+d.String())
	if err != nil {
		return nil, err
	}
	return r.Open(ctx, desc, 0)
}

// Open opens a blob at an offset in bytes. For the errors, see Class.
func (r *Source) Open(ctx context.Context, desc ocispec.Descriptor, offset int64) (_ io.ReadCloser, err error) {
	ctx, watch := watchdog.Watch(ctx, watchdog.Timeout)
	defer func() {
		if err != nil {
			watch.Stop()
		}
	}()
	fetcher, err := r.resolver.Fetcher(Quiet(ctx), repository(r.name)+"@"+desc.Digest.String())
	if err != nil {
		return nil, err
	}
	desc.URLs = nil // Content comes from the registry in the name, not from where a manifest points to.
	body, err := fetcher.Fetch(Quiet(ctx), desc)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		seeker, ok := body.(io.Seeker)
		if !ok {
			return nil, errors.Join(errors.New("it cannot continue in the middle of a blob"), body.Close())
		}
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, body.Close())
		}
	}
	watch.ReadCloser = body
	return watch, nil
}

// repository returns a name without its tag.
func repository(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// domain returns the registry of a normalised name.
func domain(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}
