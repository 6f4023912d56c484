//go:build linux

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
	"swarm/containerd/image/progress"
	"swarm/containerd/image/registry"
	"swarm/containerd/image/survey"
	"swarm/containerd/inflate"
	"swarm/internal/disk"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Load reads an OCI or Docker archive, plain or compressed by gzip or zstd, and keeps its images.
// It returns one image for each name in the archive. The digests depend only on the archive, not on
// what the node holds. name replaces the name in an archive with one image; it is needed if the
// archive has no name. tell may be nil.
//
// Errors do not say that a load failed: the caller adds that. ErrInvalidArgument: from is not an
// archive, is damaged, exceeds a limit, or has no names. ErrResourceExhausted: the disk is full. If
// a read of from fails, Load wraps that error.
func (s *Store) Load(ctx context.Context, from io.Reader, name string, tell func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error) {
	if name != "" {
		parsed, err := spec.ParseImage(name)
		if err != nil {
			return nil, err
		}
		name = parsed.Name
	}
	ctx = namespaced(ctx)
	ctx, done, err := s.client.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	defer func() {
		if err := done(context.WithoutCancel(ctx)); err != nil {
			s.log.Warn("lease of a load was not deleted, and expires later", "err", err)
		}
	}()
	var index ocispec.Descriptor
	// A compressed archive may be much larger than the bytes that were sent.
	err = s.whileRoom(ctx, func(ctx context.Context) (err error) {
		index, err = s.ingest(ctx, from, progress.NewMeter("load", 0, tell))
		return err
	})
	if err != nil {
		return nil, err
	}
	found, err := s.named(ctx, index, name)
	if err != nil {
		return nil, err
	}
	var out []*swarmv1.Image
	for _, f := range found {
		progress.NewMeter("unpack "+f.ref.Familiar(), 0, tell).Flush()
		if err := s.keep(ctx, f.ref, f.target, true); err != nil {
			return nil, fmt.Errorf("%s: %w", f.ref.Familiar(), err)
		}
		out = append(out, f.image)
	}
	return out, nil
}

// withoutLayers is a content store in which Import finds no layers. In the node's store, Import
// would use a compressed copy of a layer if the node holds one, and the image would have different
// digests on different nodes.
type withoutLayers struct{ content.Store }

// Walk finds nothing. Import looks for layers with it.
func (withoutLayers) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

// ReaderAt limits the size of documents, which Import reads into memory. Import streams layers,
// whose media type it does not know yet.
func (n withoutLayers) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if desc.MediaType == "" {
		return n.Store.ReaderAt(ctx, desc)
	}
	return document.Bounded(n.Store).ReaderAt(ctx, desc)
}

// ingest stores the blobs of the archive and returns its index.
func (s *Store) ingest(ctx context.Context, from io.Reader, m *progress.Meter) (ocispec.Descriptor, error) {
	source := &progress.Reader{From: from, Meter: m}
	plain, err := inflate.Stream(source)
	if err != nil {
		return ocispec.Descriptor{}, explainArchive(source, err)
	}
	defer plain.Close()
	index, err := archive.ImportIndex(ctx, withoutLayers{s.client.ContentStore()}, document.Archive(plain))
	if err != nil {
		return ocispec.Descriptor{}, explainArchive(source, err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // Read the padding, so that the sender can finish.
		return ocispec.Descriptor{}, explainArchive(source, err)
	}
	m.Flush()
	return index, nil
}

// explainArchive says why an archive, which was read by r, cannot be loaded.
func explainArchive(r *progress.Reader, err error) error {
	invalid := errdefs.ErrInvalidArgument.WithMessage
	switch {
	case document.Limit(err) != "":
		return invalid("the archive is refused: " + document.Limit(err))
	case errors.Is(err, inflate.ErrWindow):
		return invalid("the archive is refused: " + inflate.ErrWindow.Error())
	case r.Err != nil:
		return fmt.Errorf("read archive: %w", r.Err)
	case disk.IsFull(err):
		return errdefs.ErrResourceExhausted.WithMessage("the disk of this node filled meanwhile: make room, or run `swarm system prune`, and load it again")
	case errdefs.IsCanceled(err), errdefs.IsDeadlineExceeded(err), errdefs.IsUnavailable(err), errdefs.IsUnknown(err), errdefs.IsResourceExhausted(err):
		return fmt.Errorf("store blobs: %w", err) // It is an error of containerd.
	case r.Meter.Count() == 0:
		return invalid("the archive is empty: make one with `docker save -o FILE IMAGE`")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the archive ends too early: make it again with `docker save -o FILE IMAGE`")
	case errors.Is(err, tar.ErrHeader), strings.Contains(err.Error(), "unrecognized image format"):
		return invalid("the input is neither an OCI nor a Docker archive: make one with `docker save -o FILE IMAGE`")
	}
	return invalid("the archive is damaged (" + registry.OneLine(err) + "): make it again with `docker save -o FILE IMAGE`")
}

// found is one image of an archive.
type found struct {
	ref    spec.Image
	target ocispec.Descriptor
	image  *swarmv1.Image
}

// maxBlobs is how many blobs all images of an archive may have together, because the node keeps
// their digests in memory. An image with two names counts twice.
const maxBlobs = 32 << 10

// named finds the images of an archive and their names.
func (s *Store) named(ctx context.Context, index ocispec.Descriptor, name string) ([]found, error) {
	manifests, err := s.manifests(ctx, index)
	if err != nil {
		return nil, err
	}
	byName := map[string]ocispec.Descriptor{}
	var order []string
	for _, m := range manifests {
		n := name
		if n == "" {
			n = ownName(m.Annotations)
		}
		if n == "" {
			return nil, errdefs.ErrInvalidArgument.WithMessage("the archive has an image without a name: give it one with --name")
		}
		old, twice := byName[n]
		switch {
		case !twice:
			order = append(order, n)
			byName[n] = bare(m)
		case old.Digest == m.Digest:
		case sameNames(manifests):
			byName[n] = index // The manifests are one image for several platforms.
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"the archive holds several images and %s can name only one: load them without --name, or one by one", n))
		}
	}
	var out []found
	blobs := 0
	for _, n := range order {
		f, own, err := s.checkImage(ctx, n, byName[n])
		if err != nil {
			return nil, err
		}
		blobs += own
		if blobs > maxBlobs {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the images of the archive have more than %d blobs: load fewer at a time", maxBlobs))
		}
		out = append(out, f)
	}
	return out, nil
}

func (s *Store) manifests(ctx context.Context, index ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	manifests, err := document.Children(ctx, s.client.ContentStore(), index)
	if limit := document.Limit(err); limit != "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive is refused: " + limit)
	}
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive is damaged: its index.json: " + registry.OneLine(err))
	}
	if len(manifests) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive holds no image")
	}
	return manifests, nil
}

// checkImage describes an image of the archive, and returns how many blobs it has. It returns
// ErrInvalidArgument if the archive has all blobs for no platform of the image.
func (s *Store) checkImage(ctx context.Context, name string, target ocispec.Descriptor) (found, int, error) {
	ref, err := spec.ParseImage(name)
	if err != nil {
		return found{}, 0, err
	}
	x, err := survey.Take(ctx, s.client.ContentStore(), target)
	if limit := document.Limit(err); limit != "" {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: its %s", ref.Familiar(), limit))
	}
	if err != nil {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: the archive is damaged: %s", ref.Familiar(), registry.OneLine(err)))
	}
	if len(x.Platforms) == 0 {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"%s: the archive is not whole, it lacks %s: make it again with `docker save -o FILE IMAGE`", ref.Familiar(), x.Missing))
	}
	e := &entry{digest: target.Digest.String(), loaded: true, Result: x}
	return found{ref: ref, target: target, image: e.proto(ref.Name)}, len(x.Blobs), nil
}

// ownName returns the name that an archive gives an image, or "". A tag without a repository does
// not count.
func ownName(annotations map[string]string) string {
	if n := annotations[images.AnnotationImageName]; n != "" {
		return n
	}
	if n := annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:@") {
		return n
	}
	return ""
}

// sameNames reports whether all manifests have the same name and different platforms, and so are
// one image.
func sameNames(manifests []ocispec.Descriptor) bool {
	seen := map[string]bool{}
	for _, m := range manifests {
		if m.Platform == nil || ownName(m.Annotations) != ownName(manifests[0].Annotations) || images.IsIndexType(m.MediaType) {
			return false
		}
		p := survey.Describe([]ocispec.Platform{*m.Platform})
		if seen[p] {
			return false
		}
		seen[p] = true
	}
	return true
}

// bare returns a descriptor without the annotations of an archive.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}
