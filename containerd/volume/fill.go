//go:build linux

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	confs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/containerd/inroot"
	"swarm/internal/disk"
	"swarm/internal/tree"
)

// filling is a folder of a volume that receives a copy of the image's files when it is empty.
type filling struct {
	Place
	target string // path in the image
}

// Make makes the volumes and folders of a plan that are missing, and mounts the file systems of its
// volumes. From then on the task uses its volumes with a name, until Release. As in Docker, an
// empty volume receives a copy of the files that the image has at the volume's target; rootfs is
// the mounts of the container's file system. A call that was interrupted may be repeated.
//
// It returns ErrInvalidArgument when a place leaves its volume, the volume spans file systems, or a
// file system cannot be mounted, and the error of Deps.Room when the disk fills while files are
// copied.
func (s *Store) Make(ctx context.Context, task string, v Plan, rootfs []mount.Mount) error {
	for _, dir := range v.create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("bind source: %w", err)
		}
	}
	if err := s.use(task, v.named); err != nil {
		return err
	}
	for _, p := range v.make {
		if err := makePlace(p); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
	}
	var empty []filling
	for _, f := range v.fill {
		isEmpty, err := f.empty()
		if err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if isEmpty {
			empty = append(empty, f)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	return mount.WithReadonlyTempMount(ctx, rootfs, func(root string) error {
		// An image of a few bytes may declare volumes inside volumes, and each copy contains the
		// next.
		return disk.WhileRoom(ctx, s.room, func(ctx context.Context) error {
			for _, f := range empty {
				if err := f.copyUp(ctx, root); err != nil {
					return fmt.Errorf("volume at %s: copy of the image's files: %w", f.target, err)
				}
			}
			return nil
		})
	})
}

// fillPrefix begins the names of the folders, beside a volume's data, in which copies are made.
const fillPrefix = ".fill-"

// copyUp copies the image's files at the target into the volume; root is the image's tree. Other
// containers may already use the volume and write to it during the copy. Therefore copyUp makes the
// copy beside the volume, and then moves each entry of the copy into the volume. It does not
// replace an entry that exists in the volume.
func (f filling) copyUp(ctx context.Context, root string) (err error) {
	source, err := inroot.Open(root, f.target)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil || !info.IsDir() {
		return err
	}
	beside, err := os.MkdirTemp(filepath.Dir(f.Data), fillPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.RemoveAll(context.WithoutCancel(ctx), beside)) }()
	made := filepath.Join(beside, "copy")
	// CopyDir takes no context. Renaming its target makes it fail when the task is stopped.
	stop := context.AfterFunc(ctx, func() { _ = os.Rename(made, filepath.Join(beside, "stopped")) })
	defer stop()
	// The path of a handle is a symbolic link. The dot makes CopyDir see the folder and not the
	// link.
	if err := confs.CopyDir(made, inroot.Path(source)+"/."); err != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.take(made)
}

// take moves the entries of the folder made into the volume, and gives the volume the folder's
// owner and mode.
func (f filling) take(made string) error {
	from, err := os.Open(made)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := f.folder()
	if err != nil {
		return err
	}
	defer to.Close()
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("%s is on another file system than the folder above it: mount the volume with volume-nocopy: %w", f.Data, errdefs.ErrInvalidArgument)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("move %s: %w", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fchown(int(to.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(int(to.Fd()), st.Mode&0o7777)
}
