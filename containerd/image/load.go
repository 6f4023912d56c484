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
	"swarm/containerd/image/survey"
	"swarm/containerd/inflate"
	"swarm/internal/disk"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Load reads an OCI or Docker archive, plain or compressed by gzip or zstd, and keeps its images;
// it returns one for each name. The digest depends on the archive alone, not on what the node
// holds. name replaces that of an archive with one image, and is needed when the archive has none.
//
// Errors leave it to the caller to say that it was loading. ErrInvalidArgument: not an archive, a
// damaged one, or one without names. An error of reading archive comes back as it is.
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
			s.log.Warn("lease of a loaded image expires by itself", "err", err)
		}
	}()
	var index ocispec.Descriptor
	// A compressed archive may be much larger than what was sent.
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

// anyNode is a content store to which every layer of an archive is new. Import would otherwise put
// a compressed twin that the node happens to hold into the manifest, and the image would have
// another digest on another node.
type anyNode struct{ content.Store }

func (anyNode) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

// ReaderAt bounds documents, which Import reads into memory. Layers, of which it does not know the
// type yet, it streams.
func (n anyNode) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if desc.MediaType == "" {
		return n.Store.ReaderAt(ctx, desc)
	}
	return document.Bounded(n.Store).ReaderAt(ctx, desc)
}

// ingest stores the archive's blobs and gives its index.
func (s *Store) ingest(ctx context.Context, from io.Reader, m *progress.Meter) (ocispec.Descriptor, error) {
	source := &progress.Reader{From: from, Meter: m}
	plain, err := inflate.Stream(source)
	if err != nil {
		return ocispec.Descriptor{}, explainArchive(source, err)
	}
	defer plain.Close()
	index, err := archive.ImportIndex(ctx, anyNode{s.client.ContentStore()}, document.Archive(plain))
	if err != nil {
		return ocispec.Descriptor{}, explainArchive(source, err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // the padding, so that the sender can finish
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
		return fmt.Errorf("store blobs: %w", err) // containerd's
	case r.Meter.Count() == 0:
		return invalid("the archive is empty: make one with `docker save -o FILE IMAGE`")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the archive ends too early: make it again with `docker save -o FILE IMAGE`")
	case errors.Is(err, tar.ErrHeader), strings.Contains(err.Error(), "unrecognized image format"):
		return invalid("the input is neither an OCI nor a Docker archive: make one with `docker save -o FILE IMAGE`")
	}
	return invalid("the archive is damaged (" + oneLine(err) + "): make it again with `docker save -o FILE IMAGE`")
}

// found is an image of an archive.
type found struct {
	ref    spec.Image
	target ocispec.Descriptor
	image  *swarmv1.Image
}

// maxBlobs bounds the blobs of all images of an archive, counted for each name: the node remembers
// them.
const maxBlobs = 32 << 10

// named finds the images of an archive and what they are called.
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
			byName[n] = index // one image for several platforms
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"the archive holds several images and %s can name only one: load them without --name, or one by one", n))
		}
	}
	var out []found
	blobs := 0
	for _, n := range order {
		f, own, err := s.judge(ctx, n, byName[n])
		if err != nil {
			return nil, err
		}
		if blobs += own; blobs > maxBlobs {
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
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive is damaged: its index.json: " + oneLine(err))
	}
	if len(manifests) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the archive holds no image")
	}
	return manifests, nil
}

// judge refuses an image of which no platform is whole. It returns how many blobs the image has.
func (s *Store) judge(ctx context.Context, name string, target ocispec.Descriptor) (found, int, error) {
	ref, err := spec.ParseImage(name)
	if err != nil {
		return found{}, 0, err
	}
	x, err := survey.Take(ctx, s.client.ContentStore(), target)
	if limit := document.Limit(err); limit != "" {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: its %s", ref.Familiar(), limit))
	}
	if err != nil {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s: the archive is damaged: %s", ref.Familiar(), oneLine(err)))
	}
	if len(x.Platforms) == 0 {
		return found{}, 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"%s: the archive is not whole, it lacks %s: make it again with `docker save -o FILE IMAGE`", ref.Familiar(), x.Missing))
	}
	e := &entry{digest: target.Digest.String(), loaded: true, Result: x}
	return found{ref: ref, target: target, image: e.proto(ref.Name)}, len(x.Blobs), nil
}

// ownName is the name that an archive gives an image, or empty. A bare tag names none.
func ownName(annotations map[string]string) string {
	if n := annotations[images.AnnotationImageName]; n != "" {
		return n
	}
	if n := annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:@") {
		return n
	}
	return ""
}

// sameNames says whether no two manifests have different names, and no two are for one platform:
// then they are one image.
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

// bare is a descriptor without what an archive says about it.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
