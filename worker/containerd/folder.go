//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/private"
	"swarm/internal/tree"
	"swarm/worker/containerd/ocispec"
	"swarm/worker/engine"
)

// Folders of one task: what persists below the state folder, what must not reach a disk below the run folder.
func (r *Runtime) tasksRoot() string         { return filepath.Join(r.cfg.StateDir, "tasks") }
func (r *Runtime) taskDir(id string) string  { return filepath.Join(r.tasksRoot(), id) }
func (r *Runtime) filesDir(id string) string { return filepath.Join(r.filesRoot(), id) }
func (r *Runtime) filesRoot() string         { return filepath.Join(r.cfg.RunDir, "files") }
func (r *Runtime) execDir() string           { return filepath.Join(r.cfg.RunDir, "exec") }

// validID refuses what is no file name; containerd refuses the rest.
func validID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsRune(id, '/') {
		return fmt.Errorf("task id %q is no name: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// started tells whether a container has ever been started, also when everybody else has forgotten.
func (r *Runtime) started(id string) bool {
	_, err := os.Stat(filepath.Join(r.taskDir(id), "started"))
	return err == nil
}

func (r *Runtime) markStarted(id string) error {
	if err := private.Folder(r.taskDir(id)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.taskDir(id), "started"), nil, 0o600)
}

func (r *Runtime) unmarkStarted(id string) error {
	err := os.Remove(filepath.Join(r.taskDir(id), "started"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// filePaths says where on the host the container's files go.
func (r *Runtime) filePaths(c engine.Container) []string {
	paths := make([]string, len(c.Files))
	for i := range c.Files {
		paths[i] = filepath.Join(r.filesDir(c.Task.GetId()), strconv.Itoa(i))
	}
	return paths
}

// writeFiles writes secrets and configs where filePaths says.
func (r *Runtime) writeFiles(c engine.Container, accounts ocispec.Accounts) error {
	if len(c.Files) == 0 {
		return nil
	}
	if err := r.ensureTmpfs(); err != nil {
		return err
	}
	if err := os.MkdirAll(r.filesDir(c.Task.GetId()), 0o700); err != nil {
		return err
	}
	for i, path := range r.filePaths(c) {
		if err := writeFile(path, c.Files[i], accounts); err != nil {
			return fmt.Errorf("file %s: %w", c.Files[i].Path, err)
		}
	}
	return nil
}

func writeFile(path string, f engine.File, accounts ocispec.Accounts) error {
	uid, err := accounts.UID(f.UID)
	if err != nil {
		return err
	}
	gid, err := accounts.GID(f.GID)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, f.Data, 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return os.Chmod(path, fs.FileMode(f.Mode)&fs.ModePerm)
}

// ensureTmpfs makes the folder of files one in memory: as it is when its parent is one, else by a mount.
func (r *Runtime) ensureTmpfs() error {
	r.tmpfs.Lock()
	defer r.tmpfs.Unlock()
	dir := r.filesRoot()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// removeFolders removes all that a task has on this host outside containerd.
func (r *Runtime) removeFolders(ctx context.Context, id string) error {
	return errors.Join(os.RemoveAll(r.filesDir(id)), tree.RemoveAll(ctx, r.taskDir(id)))
}

// Close undoes what is not of a single task: the tmpfs, when no task has files in it.
func (r *Runtime) Close() error {
	entries, err := os.ReadDir(r.filesRoot())
	if errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("close container runtime: %w", err)
	}
	if err := unix.Unmount(r.filesRoot(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", r.filesRoot(), err)
	}
	return nil
}
