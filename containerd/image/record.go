//go:build linux

package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
	"swarm/containerd/image/survey"
	"swarm/internal/disk"
	"swarm/internal/spec"
)

// labelLoaded marks the record of an image that was loaded from an archive. A registry need not
// have such an image.
const labelLoaded = "io.swarm.loaded"

// recordsOf returns the names of the records of an image: one by digest, so that the image outlives
// a tag that moves to another image, and one by tag if ref has a tag.
func recordsOf(ref spec.Image, d digest.Digest) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(ref.Name)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w: %w", ref.Name, err, errdefs.ErrInvalidArgument)
	}
	names := []string{named.Name() + "@" + d.String()}
	if _, ok := named.(reference.Tagged); ok {
		names = append(names, named.String())
	}
	return names, nil
}

// keep makes the blobs of an image outlast the lease that protects them: it links them by labels,
// so that the image's record protects them, unpacks the image if it is for this node's platform,
// and writes the records. Package imagecache unpacks an image for another platform when a container
// needs it.
func (s *Store) keep(ctx context.Context, ref spec.Image, target ocispec.Descriptor, loaded bool) error {
	store := s.client.ContentStore()
	if _, err := survey.Take(ctx, store, target); err != nil { // Refuse an image that is too large before it is walked.
		return err
	}
	link := images.SetChildrenLabels(store, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := document.Children(ctx, store, desc)
		if errdefs.IsNotFound(err) {
			return nil, images.ErrSkipDesc // It belongs to a platform that is not here.
		}
		return children, err
	}))
	if err := images.Walk(ctx, link, target); err != nil {
		return fmt.Errorf("link blobs: %w", err)
	}
	names, err := recordsOf(ref, target.Digest)
	if err != nil {
		return err
	}
	if err := s.unpack(ctx, names[0], target); err != nil {
		return err
	}
	for _, name := range names {
		if err := s.record(ctx, images.Image{Name: name, Target: target}, loaded); err != nil {
			return fmt.Errorf("record image %s: %w", name, err)
		}
	}
	s.invalidate()
	return nil
}

// unpack makes the snapshots of the layers, from which containers start. A repeated call changes
// nothing.
func (s *Store) unpack(ctx context.Context, name string, target ocispec.Descriptor) error {
	x, err := survey.Take(ctx, s.client.ContentStore(), target)
	if err != nil {
		return err
	}
	if !x.Serves(s.platform) {
		return nil
	}
	image := client.NewImageWithPlatform(s.client, images.Image{Name: name, Target: target}, s.platform)
	return s.whileRoom(ctx, func(ctx context.Context) error {
		if err := image.Unpack(ctx, s.cfg.Snapshotter); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		return nil
	})
}

// whileRoom runs do, and cancels its context when the disk has only its reserve left, because the
// unpacked size of a layer is not known before. containerd then removes the incomplete layer.
func (s *Store) whileRoom(ctx context.Context, do func(context.Context) error) error {
	return disk.WhileRoom(ctx, s.room, do)
}

// record writes a record, or moves it to another target. If the record says that its digest was
// loaded, a later pull of the same digest keeps this mark.
func (s *Store) record(ctx context.Context, image images.Image, loaded bool) error {
	store := s.client.ImageService()
	old, err := store.Get(ctx, image.Name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if loaded || old.Target.Digest == image.Target.Digest && old.Labels[labelLoaded] != "" {
		image.Labels = map[string]string{labelLoaded: "true"}
	}
	if errdefs.IsNotFound(err) {
		_, err = store.Create(ctx, image)
		if !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	_, err = store.Update(ctx, image, "target", "labels")
	return err
}

// Remove deletes the records of the image with a digest. It returns when its blobs and snapshots
// that nothing else needs are deleted too. ErrNotFound: this node does not hold the image.
// ErrFailedPrecondition: a container uses it. ErrInvalidArgument: the digest is malformed.
func (s *Store) Remove(ctx context.Context, digest string) error {
	d, err := validDigest(digest)
	if err != nil {
		return err
	}
	ctx = namespaced(ctx)
	records, err := s.client.ImageService().List(ctx, fmt.Sprintf("target.digest==%q", d))
	if err != nil {
		return fmt.Errorf("remove image %s: %w", digest, err)
	}
	if len(records) == 0 {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("remove image %s: this node does not hold it", digest))
	}
	if err := s.checkUnused(ctx, records); err != nil {
		return err
	}
	defer s.invalidate()
	for i, r := range records {
		var opts []images.DeleteOpt
		if i == len(records)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if derr := s.client.ImageService().Delete(ctx, r.Name, opts...); !errdefs.IsNotFound(derr) {
			err = errors.Join(err, derr)
		}
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", digest, err)
	}
	return nil
}

// checkUnused returns ErrFailedPrecondition if a container was made from one of the records.
func (s *Store) checkUnused(ctx context.Context, records []images.Image) error {
	filters := make([]string, len(records))
	for i, r := range records {
		filters[i] = fmt.Sprintf("image==%q", r.Name)
	}
	users, err := s.client.ContainerService().List(ctx, filters...)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", records[0].Name, err)
	}
	if len(users) > 0 {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"image %s is used by container %s: remove the task first", records[0].Name, users[0].ID))
	}
	return nil
}
