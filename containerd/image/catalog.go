//go:build linux

package image

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/survey"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// catalog has the content of containerd's image records at the time when they were read. It must
// not be changed.
type catalog struct {
	images  map[string]*entry      // by digest
	names   map[string]*entry      // by tagged name
	records map[string]string      // containerd's names and their digests
	blobs   map[string]survey.Blob // by digest: everything that belongs to an image
}

// entry is an image that this node holds.
type entry struct {
	digest  string
	target  ocispec.Descriptor
	records []string // containerd's names, tagged ones first
	loaded  bool
	survey.Result
}

// name returns a tagged name if the image has one.
func (e *entry) name() string {
	name, _, _ := strings.Cut(e.records[0], "@")
	return name
}

func (e *entry) proto(name string) *swarmv1.Image {
	out := &swarmv1.Image{Name: name, Digest: e.digest, Size: e.Size(), Loaded: e.loaded}
	for _, p := range e.Platforms {
		if p.OS != "" || p.Architecture != "" {
			out.Platforms = append(out.Platforms, &swarmv1.Platform{Os: p.OS, Architecture: p.Architecture, Variant: p.Variant})
		}
	}
	return out
}

func compareImages(a, b *swarmv1.Image) int {
	return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetDigest(), b.GetDigest()))
}

// catalog returns the current catalog. It reads the records if they have changed.
func (s *Store) catalog(ctx context.Context) (*catalog, error) {
	s.mu.Lock()
	held, writes := s.held, s.writes
	s.mu.Unlock()
	if held != nil {
		return held, nil
	}
	held, err := s.read(namespaced(ctx))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes == writes {
		s.held = held
	}
	return held, nil
}

func (s *Store) read(ctx context.Context) (*catalog, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	c := &catalog{images: map[string]*entry{}, names: map[string]*entry{}, records: map[string]string{}, blobs: map[string]survey.Blob{}}
	for _, r := range records {
		d := r.Target.Digest.String()
		e := c.images[d]
		if e == nil {
			x, err := survey.Take(ctx, s.client.ContentStore(), r.Target)
			if errdefs.IsInvalidArgument(err) {
				s.log.Warn("image is ignored, because it is not valid", "image", r.Name, "err", err)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", r.Name, err)
			}
			if len(x.Platforms) == 0 {
				s.log.Warn("image is ignored, because it is incomplete", "image", r.Name, "missing", x.Missing)
				continue
			}
			e = &entry{digest: d, target: r.Target, Result: x}
			c.images[d] = e
			for d, b := range x.Blobs {
				c.blobs[d] = b
			}
		}
		e.records = append(e.records, r.Name)
		c.records[r.Name] = d
		e.loaded = e.loaded || r.Labels[labelLoaded] != ""
		if !strings.Contains(r.Name, "@") {
			c.names[r.Name] = e
		}
	}
	for _, e := range c.images {
		slices.SortFunc(e.records, func(a, b string) int {
			return cmp.Or(cmp.Compare(strings.Count(a, "@"), strings.Count(b, "@")), cmp.Compare(a, b))
		})
	}
	return c, nil
}

// find looks for an image among those that this node holds. ErrNotFound: the node does not hold it.
func (s *Store) find(ctx context.Context, ref string) (*entry, error) {
	parsed, err := spec.ParseImage(ref)
	if err != nil {
		return nil, err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", parsed.Familiar(), err)
	}
	e := c.names[parsed.Name]
	if parsed.Digest != "" {
		e = c.images[parsed.Digest]
	}
	if e == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image %s is not on this node", parsed.Familiar()))
	}
	return e, nil
}

// validDigest parses a digest. ErrInvalidArgument: it is malformed.
func validDigest(d string) (digest.Digest, error) {
	parsed, err := digest.Parse(d)
	if err != nil {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a digest: write sha256:...", d))
	}
	return parsed, nil
}
