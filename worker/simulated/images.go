package simulated

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"swarm/internal/broadcast"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Images is an image store that has only names and digests.
type Images struct {
	// Registry returns the error of a pull of a reference; nil: the pull succeeds. If Registry is
	// nil, every pull succeeds.
	Registry func(ref string) error
	// Delay is how long a pull takes if the image is not held.
	Delay time.Duration

	mu      sync.Mutex // guards what follows
	held    map[string]*swarmv1.Image
	blobs   map[string][]byte
	changed broadcast.Signal
}

var _ engine.ImageStore = (*Images)(nil)

// NewImages returns a store that holds nothing and can pull everything.
func NewImages() *Images {
	return &Images{held: map[string]*swarmv1.Image{}, blobs: map[string][]byte{}}
}

// digestOf returns the digest in a reference, or one made from its name.
func digestOf(ref string) string {
	if _, d, ok := strings.Cut(ref, "@"); ok {
		return d
	}
	return digest.FromString(ref).String()
}

func (i *Images) holdsRef(ref string) bool { return i.Holds(digestOf(ref)) }

// Pull implements engine.Images.
func (i *Images) Pull(ctx context.Context, req engine.PullRequest, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	d := digestOf(req.Ref)
	i.mu.Lock()
	image := i.held[d]
	i.mu.Unlock()
	if image != nil {
		return image, nil
	}
	if i.Registry != nil {
		if err := i.Registry(req.Ref); err != nil {
			return nil, err
		}
	}
	if err := pause.For(ctx, i.Delay); err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(req.Ref, "@")
	image = &swarmv1.Image{Name: name, Digest: d}
	if progress != nil {
		progress(&swarmv1.ImageProgress{Step: "pull", Image: image})
	}
	i.put(image, nil)
	return image, nil
}

// Push implements engine.Images. The registry accepts every image that is held.
func (i *Images) Push(ctx context.Context, req engine.PushRequest, _ func(*swarmv1.ImageProgress)) error {
	if !i.holdsRef(req.Ref) {
		return fmt.Errorf("push image %s: %w", req.Ref, errdefs.ErrNotFound)
	}
	return pause.For(ctx, i.Delay)
}

func (i *Images) put(image *swarmv1.Image, blob []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held[image.Digest] = image
	if blob != nil {
		i.blobs[image.Digest] = blob
	}
	i.changedLocked()
}

func (i *Images) changedLocked() {
	i.changed.Broadcast()
}

// Load implements engine.ImageStore. The whole archive is one blob.
func (i *Images) Load(_ context.Context, archive io.Reader, name string, _ func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error) {
	data, err := io.ReadAll(archive)
	if err != nil {
		return nil, fmt.Errorf("load image %s: %w", name, err)
	}
	image := &swarmv1.Image{Name: name, Digest: digest.FromBytes(data).String(), Size: int64(len(data)), Loaded: true}
	i.put(image, data)
	return []*swarmv1.Image{image}, nil
}

// Remove implements engine.Images.
func (i *Images) Remove(_ context.Context, digest string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.held[digest] == nil {
		return fmt.Errorf("remove image %s: %w", digest, errdefs.ErrNotFound)
	}
	delete(i.held, digest)
	delete(i.blobs, digest)
	i.changedLocked()
	return nil
}

// List implements engine.Images.
func (i *Images) List(context.Context) ([]*swarmv1.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []*swarmv1.Image
	for _, d := range slices.Sorted(maps.Keys(i.held)) {
		out = append(out, i.held[d])
	}
	return out, nil
}

// Changed implements engine.Images.
func (i *Images) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed.Changed()
}

// Holds implements engine.ImageStore.
func (i *Images) Holds(digest string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.held[digest] != nil
}

// Blob implements engine.ImageStore.
func (i *Images) Blob(_ context.Context, digest string) (engine.Blob, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	data, ok := i.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, errdefs.ErrNotFound)
	}
	return blob{bytes.NewReader(data)}, nil
}

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }
