//go:build linux

package containerd

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

	"swarm/internal/disk"
	"swarm/worker/containerd/document"
	"swarm/worker/containerd/inroot"
	"swarm/worker/containerd/ocispec"
	"swarm/worker/engine"
)

// maxAccounts bounds the files that accounts are read from, in bytes.
const maxAccounts = 4 << 20

// image is what starting a container needs to know of an image. Immutable.
type image struct {
	name     string // containerd's
	digest   string // of the index or manifest
	platform string // as asked for
	chain    string // the snapshot of its layers
	config   imagespec.ImageConfig
	defaults engine.ImageDefaults
	accounts ocispec.Accounts
}

// images remembers images by digest, which makes them immutable, so that fifty containers cost one look.
type images struct {
	client      *client.Client
	snapshotter string
	room        func(bytes int64) error

	mu    sync.Mutex // guards known
	known map[string]*slot
}

// slot is the place of one image; whoever comes first fills it, the others wait.
type slot struct {
	turn  chan struct{} // of capacity 1: whoever has put something in has the turn, which guards image
	image *image
}

// get finds a held image, unpacked; ErrNotFound when it is not held.
func (s *images) get(ctx context.Context, ref, platform string) (*image, error) {
	pin, pinned := pinnedDigest(ref)
	if !pinned {
		held, err := s.find(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		pin = held.Target.Digest.String()
	}
	place := s.slot(pin, platform)
	select {
	case place.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("image %s: %w", ref, ctx.Err())
	}
	defer func() { <-place.turn }()
	if place.image == nil {
		i, err := s.read(ctx, ref, platform)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		place.image = i
	}
	return place.image, nil
}

func (s *images) slot(digest, platform string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := digest + " " + platform
	if s.known[key] == nil {
		s.known[key] = &slot{turn: make(chan struct{}, 1)}
	}
	return s.known[key]
}

// forget drops what was known of an image: it has been removed.
func (s *images) forget(i *image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, i.digest+" "+i.platform)
}

func pinnedDigest(ref string) (string, bool) {
	_, digest, pinned := strings.Cut(ref, "@")
	return digest, pinned
}

func (s *images) read(ctx context.Context, ref, platform string) (*image, error) {
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
	i := &image{
		name:     held.Name,
		digest:   held.Target.Digest.String(),
		platform: platform,
		chain:    identity.ChainID(spec.RootFS.DiffIDs).String(),
		config:   spec.Config,
		defaults: defaultsOf(spec.Extra),
	}
	if _, err := s.client.SnapshotService(s.snapshotter).Stat(ctx, i.chain); errdefs.IsNotFound(err) {
		err := disk.WhileRoom(ctx, s.room, func(ctx context.Context) error { return ci.Unpack(ctx, s.snapshotter) })
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
	} else if err != nil {
		return nil, err
	}
	err = s.view(ctx, i.chain, func(root string) (err error) {
		if err := checkVolumes(root, i.config.Volumes); err != nil {
			return err
		}
		i.accounts, err = readAccounts(root)
		return err
	})
	return i, err
}

// maxUser bounds the user that an image names, in bytes: two names, each as long as Linux allows.
const maxUser = 513

// checkConfig refuses a configuration that no container could be started from, and whose words would fill messages.
func checkConfig(c imagespec.ImageConfig) error {
	if n := len(c.User); n > maxUser {
		return fmt.Errorf("its user has %d bytes, at most %d are allowed: %w", n, maxUser, errdefs.ErrInvalidArgument)
	}
	if n := len(c.Volumes); n > maxImageVolumes {
		return fmt.Errorf("it declares %d volumes, at most %d are allowed: %w", n, maxImageVolumes, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkVolumes refuses volumes that would cover the kernel's own files, or all of the container's. The paths are those at
// which runc mounts them: the image's tree, at root, may have a link on the way.
func checkVolumes(root string, declared map[string]struct{}) error {
	for volume := range declared {
		at := path.Join("/", volume)
		if at == "/" {
			continue // It is left out.
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

// find looks by name, then by digest under any name.
func (s *images) find(ctx context.Context, ref string) (coreimages.Image, error) {
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

// view calls look with the folder of an image's files, which is there as long as this call.
func (s *images) view(ctx context.Context, chain string, look func(root string) error) error {
	key := "accounts-" + chain
	sn := s.client.SnapshotService(s.snapshotter)
	// The root label keeps it from the garbage collector meanwhile.
	mounts, err := sn.View(ctx, key, chain, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	if errdefs.IsAlreadyExists(err) { // of a process that was killed
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

// readAccounts reads the users and groups of a file tree. Absent files are empty.
func readAccounts(root string) (a ocispec.Accounts, err error) {
	if a.Passwd, err = inroot.ReadFile(root, "/etc/passwd", maxAccounts); err != nil {
		return a, err
	}
	a.Group, err = inroot.ReadFile(root, "/etc/group", maxAccounts)
	return a, err
}
