//go:build linux

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
)

// measured is the size of a volume, as List returns it.
type measured struct {
	bytes int64
	at    time.Time
}

// all returns the volumes, sorted by name. It skips what is no volume, and logs a volume that it
// cannot read. It takes no lock of a volume.
func (s *Store) all(ctx context.Context) ([]Named, error) {
	entries, err := os.ReadDir(s.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Named
	for _, e := range entries {
		if ident.CheckVolumeName(e.Name()) != nil {
			continue
		}
		n, err := s.load(e.Name())
		switch {
		case err == nil:
			out = append(out, n)
		case !errors.Is(err, fs.ErrNotExist):
			s.log.WarnContext(ctx, "volume cannot be read", "volume", e.Name(), "err", err)
		}
	}
	return out, nil
}

// List returns the volumes with a name, sorted by name, without passwords in their options. It logs
// a volume that it cannot read, and leaves it out. It does not wait for file servers.
func (s *Store) List(ctx context.Context) ([]*swarmv1.Volume, error) {
	all, err := s.all(ctx)
	out := make([]*swarmv1.Volume, len(all))
	for i, n := range all {
		out[i] = s.describe(n)
	}
	return out, err
}

// describe returns a volume as managers see it.
func (s *Store) describe(n Named) *swarmv1.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &swarmv1.Volume{
		Name: n.Name, Labels: n.Labels, CreatedAt: timestamppb.New(n.Created), Mountpoint: s.dataDir(n.Name),
		Driver: &swarmv1.Driver{Name: spec.LocalDriver, Options: spec.ShownVolumeOptions(n.Options)},
	}
	if size, ok := s.measured[n.Name]; ok {
		v.Size, v.MeasuredAt = size.bytes, timestamppb.New(size.at)
	}
	return v
}

// Changed returns a channel that is closed when the result of List changes.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed.Changed()
}

// Create makes a volume. A volume with the same driver options may exist already: then Create
// returns that one. It returns ErrAlreadyExists if a volume with other options exists.
func (s *Store) Create(v *swarmv1.Volume) (*swarmv1.Volume, error) {
	defer s.locks.lock(v.GetName())()
	had, err := s.load(v.GetName())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		had = Named{Name: v.GetName(), Options: v.GetDriver().GetOptions(), Labels: v.GetLabels()}
		if err := s.create(had); err != nil {
			return nil, fmt.Errorf("create volume %s: %w", v.GetName(), err)
		}
		if had, err = s.load(v.GetName()); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !maps.Equal(had.Options, v.GetDriver().GetOptions()):
		return nil, errdefs.ErrAlreadyExists.WithMessage(errOtherOptions(v.GetName()).Error())
	}
	return s.describe(had), nil
}

// removalPrefix begins the names of folders of volumes that are being removed.
const removalPrefix = ".removed-"

// Remove removes a volume with its data, and returns how many bytes of the disk this has freed. It
// returns ErrNotFound if there is no such volume, and ErrFailedPrecondition, with the tasks, if
// containers use it.
func (s *Store) Remove(ctx context.Context, name string) (reclaimed int64, err error) {
	old, err := s.unlink(name)
	if err != nil {
		return 0, err
	}
	size, err := tree.Size(ctx, old)
	if err != nil && !errors.Is(err, tree.ErrPartial) {
		s.log.DebugContext(ctx, "size of a volume is incomplete", "volume", name, "err", err)
	}
	// The volume is gone. If this call ends here, Recover removes the rest.
	if err := tree.RemoveAll(ctx, old); err != nil {
		return 0, fmt.Errorf("remove volume %s: %w", name, err)
	}
	return size, nil
}

// unlink renames the folder of a volume that no task uses, so that the volume does not exist any
// more, and returns the new path.
func (s *Store) unlink(name string) (string, error) {
	defer s.locks.lock(name)()
	if _, err := s.load(name); errors.Is(err, fs.ErrNotExist) {
		return "", errdefs.ErrNotFound.WithMessage("no volume " + name)
	}
	if err := s.unused(name); err != nil {
		return "", err
	}
	if err := unmountVolume(s.dataDir(name)); err != nil {
		return "", fmt.Errorf("remove volume %s: unmount: %w", name, err)
	}
	old, err := os.MkdirTemp(s.cfg.Dir, removalPrefix)
	if err != nil {
		return "", fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := os.Rename(s.dir(name), filepath.Join(old, name)); err != nil {
		return "", errors.Join(fmt.Errorf("remove volume %s: %w", name, err), os.Remove(old))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.measured, name)
	s.changed.Broadcast()
	return old, nil
}

// unused returns ErrFailedPrecondition, with the tasks, if containers use a volume.
func (s *Store) unused(name string) error {
	users, err := s.users(name)
	if err != nil {
		return fmt.Errorf("users of volume %s: %w", name, err)
	}
	if len(users) > 0 {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("volume %s is in use by containers of tasks %s", name, strings.Join(users, ", ")))
	}
	return nil
}

// recoverRemovals completes removals of volumes that were interrupted, and removes volumes that are
// not complete.
func (s *Store) recoverRemovals() error {
	var all error
	for _, dir := range folders(s.cfg.Dir) {
		if name := filepath.Base(dir); strings.HasPrefix(name, removalPrefix) || strings.HasPrefix(name, importPrefix) {
			all = errors.Join(all, tree.RemoveAll(context.Background(), dir))
		}
	}
	return all
}

// Sizes returns the size in bytes of each volume with a name. A file system that is mounted for a
// volume counts as 0, because a walk over a file server takes long and frees nothing here. If a
// part of a volume cannot be read, Sizes logs this and returns the size of the rest, because the
// sizes of the other volumes are still useful. It returns an error only if ctx ends or the list of
// volumes cannot be read. List returns the new size of a volume from then on if it differs by more
// than a tenth from the one before.
func (s *Store) Sizes(ctx context.Context) (map[string]int64, error) {
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64, len(all))
	for _, n := range all {
		sizes[n.Name] = 0
		if len(n.Options) > 0 {
			continue
		}
		size, err := tree.Size(ctx, s.dataDir(n.Name))
		if ctx.Err() != nil {
			return nil, fmt.Errorf("sizes of volumes: %w", ctx.Err())
		}
		if err != nil {
			s.log.DebugContext(ctx, "size of a volume is incomplete", "volume", n.Name, "err", err)
		}
		sizes[n.Name] = size
	}
	s.noteSizes(sizes)
	return sizes, nil
}

// noteSizes keeps the sizes that differ by more than a tenth from those that List returns now.
func (s *Store) noteSizes(sizes map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for name, size := range sizes {
		had, known := s.measured[name]
		if diff := max(size-had.bytes, had.bytes-size); !known || diff*10 > had.bytes {
			s.measured[name] = measured{size, time.Now().UTC().Truncate(time.Second)}
			changed = true
		}
	}
	if changed {
		s.changed.Broadcast()
	}
}
