//go:build linux

package image

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// catalog is what containerd's records said when it was read. Immutable.
type catalog struct {
	images  map[string]*entry // by digest
	names   map[string]*entry // by tagged name
	records map[string]string // containerd's names and their digests
	blobs   map[string]blob   // by digest: everything that belongs to an image
}

// entry is a held image.
type entry struct {
	digest  string
	target  ocispec.Descriptor
	records []string // containerd's names, tagged ones first
	loaded  bool
	extent
}

// blob is one piece of an image.
type blob struct {
	mediaType string
	size      int64
}

// extent is how much of an image is here.
type extent struct {
	blobs     map[string]blob
	platforms []ocispec.Platform // of the manifests that are whole
	// broken names a blob that is missing from a manifest that is here.
	broken string
	listed int // manifests and indexes that were looked at
}

func (x extent) size() (n int64) {
	for _, b := range x.blobs {
		n += b.size
	}
	return n
}

// serves says whether a whole manifest is for a platform. One that does not say is for all.
func (x extent) serves(m platforms.Matcher) bool {
	return slices.ContainsFunc(x.platforms, func(p ocispec.Platform) bool {
		return p.OS == "" || p.Architecture == "" || m.Match(p)
	})
}

// name is a tagged name if it has one.
func (e *entry) name() string {
	name, _, _ := strings.Cut(e.records[0], "@")
	return name
}

func (e *entry) proto(name string) *swarmv1.Image {
	out := &swarmv1.Image{Name: name, Digest: e.digest, Size: e.size(), Loaded: e.loaded}
	for _, p := range e.platforms {
		if p.OS != "" || p.Architecture != "" {
			out.Platforms = append(out.Platforms, &swarmv1.Platform{Os: p.OS, Architecture: p.Architecture, Variant: p.Variant})
		}
	}
	return out
}

func compareImages(a, b *swarmv1.Image) int {
	return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetDigest(), b.GetDigest()))
}

// catalog gives the newest reading of the records, and reads them when they have changed.
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
	c := &catalog{images: map[string]*entry{}, names: map[string]*entry{}, records: map[string]string{}, blobs: map[string]blob{}}
	for _, r := range records {
		d := r.Target.Digest.String()
		e := c.images[d]
		if e == nil {
			x, err := survey(ctx, s.client.ContentStore(), r.Target)
			if errdefs.IsInvalidArgument(err) {
				s.log.Warn("image is not valid and not used", "image", r.Name, "err", err)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", r.Name, err)
			}
			if len(x.platforms) == 0 {
				s.log.Warn("image is not whole and not used", "image", r.Name, "missing", x.broken)
				continue
			}
			e = &entry{digest: d, target: r.Target, extent: x}
			c.images[d] = e
			for d, b := range x.blobs {
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

// find looks a reference up among the held images.
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

// survey finds out which blobs of an image are in the store.
func survey(ctx context.Context, store content.Store, root ocispec.Descriptor) (extent, error) {
	x := extent{blobs: map[string]blob{}}
	return x, x.walk(ctx, store, root, 0)
}

const (
	// maxNesting is how deep an index may be within others. Builders make one index of manifests; OCI allows more.
	maxNesting = 3
	// maxListed bounds what all indexes of an image list together, and maxPlatforms the platforms that it is for: each
	// node remembers its blobs, and the managers its platforms.
	maxListed, maxPlatforms = 1024, 64
)

// walk adds what desc leads to. It refuses what would be long to walk for everybody after us: an index that is listed twice,
// because a few small ones that list each other many times name billions of manifests, and one that is nested too deep.
func (x *extent) walk(ctx context.Context, store content.Store, desc ocispec.Descriptor, depth int) error {
	if images.IsIndexType(desc.MediaType) {
		if _, twice := x.blobs[desc.Digest.String()]; twice || depth > maxNesting {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s is listed twice, or more than %d levels deep", desc.Digest, maxNesting))
		}
	}
	if x.listed++; x.listed > maxListed {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("its indexes list more than %d manifests", maxListed))
	}
	children, err := document.Children(ctx, store, desc)
	if errdefs.IsNotFound(err) {
		if x.broken == "" {
			x.broken = desc.Digest.String()
		}
		return nil // another platform's manifest
	}
	if err != nil {
		return err
	}
	if images.IsIndexType(desc.MediaType) {
		x.add(desc)
		for _, child := range children {
			if err := x.walk(ctx, store, child, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	for _, child := range children {
		_, err := store.Info(ctx, child.Digest)
		if errdefs.IsNotFound(err) {
			x.broken = child.Digest.String()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return x.manifest(ctx, store, desc, children)
}

// manifest adds a whole manifest; children are its configuration and layers.
func (x *extent) manifest(ctx context.Context, store content.Store, desc ocispec.Descriptor, children []ocispec.Descriptor) error {
	x.add(desc)
	for _, child := range children {
		x.add(child)
	}
	p, err := platformOf(ctx, store, desc, children)
	if err != nil {
		return err
	}
	if p.OS == "unknown" { // an attestation
		return nil
	}
	if x.platforms = append(x.platforms, p); len(x.platforms) > maxPlatforms {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it is for more than %d platforms", maxPlatforms))
	}
	return nil
}

func (x *extent) add(desc ocispec.Descriptor) {
	x.blobs[desc.Digest.String()] = blob{mediaType: desc.MediaType, size: desc.Size}
}

// platformOf is what the index says of a manifest, else what its configuration says, which is checked in any case.
func platformOf(ctx context.Context, store content.Provider, desc ocispec.Descriptor, children []ocispec.Descriptor) (ocispec.Platform, error) {
	var own ocispec.Platform
	for _, child := range children {
		if images.IsConfigType(child.MediaType) {
			config, err := document.Config(ctx, store, child)
			if err != nil {
				return ocispec.Platform{}, err
			}
			own = platforms.Normalize(config.Platform)
			break
		}
	}
	if desc.Platform != nil {
		return platforms.Normalize(*desc.Platform), nil
	}
	return own, nil
}

// validDigest refuses what is no digest.
func validDigest(d string) (digest.Digest, error) {
	parsed, err := digest.Parse(d)
	if err != nil {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not a digest: write sha256:...", d))
	}
	return parsed, nil
}
