//go:build linux

// Package imagecache reads from an image what the start of a container needs, and remembers it, so
// that fifty containers of an image read it once.
//
// It unpacks images for a platform other than the node's; package image unpacks images for the
// node's platform. It returns ErrInvalidArgument for images that would harm the node or from which
// no container can be started. It does not pull: it returns ErrNotFound for an image that this node
// does not hold. Package containerd calls it. It runs no goroutine.
package imagecache

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
	"swarm/containerd/inroot"
	"swarm/containerd/ocispec"
	"swarm/containerd/volume"
	"swarm/internal/disk"
	"swarm/worker/engine"
)

// Image has what the start of a container needs of an image. It must not be changed.
type Image struct {
	Name     string // of containerd's image record
	Chain    string // key of the snapshot of its layers
	Config   imagespec.ImageConfig
	Defaults engine.ImageDefaults
	Accounts ocispec.Accounts

	digest   string // of the index or manifest
	platform string // as asked for
}

// Cache remembers images by digest and platform. A digest always names the same content, so an
// entry is outdated only if the image's snapshot was removed: see Forget. Its methods are safe for
// concurrent use.
type Cache struct {
	client      *client.Client
	snapshotter string
	room        func(bytes int64) error

	mu    sync.Mutex        // guards known
	known map[string]*entry // by digest and platform
}

// New returns an empty cache over the images of a containerd. room returns an error when the disk
// has no room for a number of bytes; nil: there is always room.
func New(c *client.Client, snapshotter string, room func(bytes int64) error) *Cache {
	return &Cache{client: c, snapshotter: snapshotter, room: room, known: make(map[string]*entry)}
}

// entry has one image. The first caller reads the image while other callers of the same entry wait.
type entry struct {
	lock  chan struct{} // of capacity 1, a mutex that a context can interrupt; guards image
	image *Image
}

// Get returns what is known of an image that this node holds, and unpacks it if necessary. An empty
// platform is the node's. ctx carries containerd's namespace.
//
// ErrNotFound: this node does not hold the image. ErrInvalidArgument: no container can be started
// from it. ErrUnavailable: containerd does not answer, which is transient.
func (s *Cache) Get(ctx context.Context, ref, platform string) (*Image, error) {
	pin, pinned := pinnedDigest(ref)
	if !pinned {
		held, err := s.find(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		pin = held.Target.Digest.String()
	}
	e := s.entry(pin, platform)
	select {
	case e.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("image %s: %w", ref, ctx.Err())
	}
	defer func() { <-e.lock }()
	if e.image == nil {
		i, err := s.read(ctx, ref, platform)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		e.image = i
	}
	return e.image, nil
}

// entry returns the entry of an image, and makes it if there is none.
func (s *Cache) entry(digest, platform string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := digest + " " + platform
	if s.known[key] == nil {
		s.known[key] = &entry{lock: make(chan struct{}, 1)}
	}
	return s.known[key]
}

// Forget removes an image from the cache. The caller has found that the image's snapshot is gone.
func (s *Cache) Forget(i *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, i.digest+" "+i.platform)
}

func pinnedDigest(ref string) (string, bool) {
	_, digest, pinned := strings.Cut(ref, "@")
	return digest, pinned
}

func (s *Cache) read(ctx context.Context, ref, platform string) (*Image, error) {
	held, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	match := platforms.Default()
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w: %w", platform, err, errdefs.ErrInvalidArgument)
		}
		match = platforms.Only(p)
	}
	ci := client.NewImageWithPlatform(s.client, held, match)
	spec, err := document.ConfigOf(ctx, s.client.ContentStore(), held.Target, match)
	if err != nil {
		return nil, err
	}
	if err := checkConfig(spec.Config); err != nil {
		return nil, err
	}
	i := &Image{
		Name:     held.Name,
		digest:   held.Target.Digest.String(),
		platform: platform,
		Chain:    identity.ChainID(spec.RootFS.DiffIDs).String(),
		Config:   spec.Config,
		Defaults: defaultsOf(spec.Extra),
	}
	if _, err := s.client.SnapshotService(s.snapshotter).Stat(ctx, i.Chain); errdefs.IsNotFound(err) {
		err := disk.WhileRoom(ctx, s.room, func(ctx context.Context) error { return ci.Unpack(ctx, s.snapshotter) })
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
	} else if err != nil {
		return nil, err
	}
	err = s.view(ctx, i.Chain, func(root string) (err error) {
		if err := checkVolumes(root, i.Config.Volumes); err != nil {
			return err
		}
		i.Accounts, err = ocispec.ReadAccounts(root)
		return err
	})
	return i, err
}

// maxUser is the longest user that an image may name, in bytes: two names, each as long as Linux
// allows.
const maxUser = 513

// checkConfig returns ErrInvalidArgument for a configuration from which no container could be
// started. Without this check such a container would fail later, with a very long error message.
func checkConfig(c imagespec.ImageConfig) error {
	if n := len(c.User); n > maxUser {
		return fmt.Errorf("its user has %d bytes, at most %d are allowed: %w", n, maxUser, errdefs.ErrInvalidArgument)
	}
	if n := len(c.Volumes); n > volume.MaxDeclared {
		return fmt.Errorf("it declares %d volumes, at most %d are allowed: %w", n, volume.MaxDeclared, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkVolumes returns ErrInvalidArgument for declared volumes that would cover the kernel's files,
// or all files of the container. It resolves symbolic links in the image's tree at root, as runc
// does when it mounts the volumes.
func checkVolumes(root string, declared map[string]struct{}) error {
	for volume := range declared {
		at := path.Join("/", volume)
		if at == "/" {
			continue // volume.Plan leaves it out.
		}
		at, err := inroot.Resolve(root, at)
		if err != nil {
			return fmt.Errorf("its volume at %.256q: %w: %w", volume, err, errdefs.ErrInvalidArgument)
		}
		first, below, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
		if first == "" || first == "proc" || first == "sys" || first == "dev" && (below == "" || below == "pts") {
			return fmt.Errorf("it declares a volume at %.256q, where the kernel's own files are: %w", volume, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// find looks for an image by name, then by digest under any name.
func (s *Cache) find(ctx context.Context, ref string) (coreimages.Image, error) {
	store := s.client.ImageService()
	held, err := store.Get(ctx, ref)
	if !errdefs.IsNotFound(err) {
		return held, err
	}
	named, perr := reference.ParseDockerRef(ref)
	if perr != nil {
		return held, err
	}
	filter := fmt.Sprintf("name==%q", named.String())
	if d, ok := named.(reference.Digested); ok {
		filter = fmt.Sprintf("target.digest==%q", d.Digest().String())
	}
	found, lerr := store.List(ctx, filter)
	if lerr != nil {
		return held, lerr
	}
	if len(found) == 0 {
		return held, err
	}
	return found[0], nil
}

// view calls look with the folder of an image's files, which is mounted during the call.
func (s *Cache) view(ctx context.Context, chain string, look func(root string) error) error {
	key := "accounts-" + chain
	sn := s.client.SnapshotService(s.snapshotter)
	// The root label protects the view from the garbage collector.
	mounts, err := sn.View(ctx, key, chain, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	if errdefs.IsAlreadyExists(err) { // A process that was killed has left it.
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("view of its files: %w", err)
	}
	err = mount.WithReadonlyTempMount(ctx, mounts, look)
	if rerr := sn.Remove(context.WithoutCancel(ctx), key); rerr != nil && !errdefs.IsNotFound(rerr) {
		err = errors.Join(err, rerr)
	}
	return err
}
