//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
)

// ContainerSizes is how many bytes each container has written to its own file system.
func (r *Runtime) ContainerSizes(ctx context.Context) (map[string]int64, error) {
	ctx = namespaced(ctx)
	owned, err := r.owned(ctx)
	if err != nil {
		return nil, fmt.Errorf("sizes of containers: %w", err)
	}
	sizes := make(map[string]int64, len(owned))
	for _, c := range owned {
		u, err := r.client.SnapshotService(c.Snapshotter).Usage(ctx, c.SnapshotKey)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("size of container %s: %w", c.ID, err)
		}
		sizes[c.ID] = u.Size
	}
	return sizes, nil
}

// VolumeSizes is how large each named volume is.
func (r *Runtime) VolumeSizes(ctx context.Context) (map[string]int64, error) {
	root := r.volumesRoot()
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sizes of volumes: %w", err)
	}
	sizes := make(map[string]int64, len(entries))
	for _, e := range entries {
		if sizes[e.Name()], err = folderSize(ctx, filepath.Join(root, e.Name())); err != nil {
			return nil, fmt.Errorf("size of volume %s: %w", e.Name(), err)
		}
	}
	return sizes, nil
}

// folderSize adds up the blocks of all files below. Containers write there meanwhile: the look-ups do not leave the folder,
// and what goes, or leads out, does not count.
func folderSize(ctx context.Context, dir string) (size int64, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil
		}
		if info, err := root.Lstat(name); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				size += st.Blocks * 512
			}
		}
		return nil
	})
	return size, err
}
