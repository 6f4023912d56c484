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

	"swarm/containerd/ocispec"
	"swarm/internal/private"
	"swarm/internal/tree"
	"swarm/worker/engine"
)

// Folders of tasks. Those in the state folder persist. Files that must not reach a disk are in the
// run folder.
func (r *Runtime) tasksRoot() string         { return filepath.Join(r.cfg.StateDir, "tasks") }
func (r *Runtime) taskDir(id string) string  { return filepath.Join(r.tasksRoot(), id) }
func (r *Runtime) filesDir(id string) string { return filepath.Join(r.filesRoot(), id) }
func (r *Runtime) filesRoot() string         { return filepath.Join(r.cfg.RunDir, "files") }

// validID returns ErrInvalidArgument for a task id that is not a file name. containerd refuses some
// more ids.
func validID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsRune(id, '/') {
		return fmt.Errorf("task id %q is not a file name: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// started reports whether a container was ever started, even if containerd has lost it.
func (r *Runtime) started(id string) bool {
	_, err := os.Stat(filepath.Join(r.taskDir(id), "started"))
	return err == nil
}

// markStarted records that the container was started. The file is not synced, and therefore not
// written by package durable: a start does not wait for the disk. After a power cut in the seconds
// before the kernel writes the file, the container counts as not started, and the managers decide
// what becomes of the task, as for all other state of the worker that such a power cut loses.
func (r *Runtime) markStarted(id string) error {
	if err := private.Folder(r.taskDir(id)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.taskDir(id), "started"), nil, 0o600)
}

// unmarkStarted undoes markStarted for a container that did not start.
func (r *Runtime) unmarkStarted(id string) error {
	err := os.Remove(filepath.Join(r.taskDir(id), "started"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// filePaths returns the paths on the host of the container's secrets and configs.
func (r *Runtime) filePaths(c engine.Container) []string {
	paths := make([]string, len(c.Files))
	for i := range c.Files {
		paths[i] = filepath.Join(r.filesDir(c.Task.GetId()), strconv.Itoa(i))
	}
	return paths
}

// writeFiles writes secrets and configs to the paths of filePaths.
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

// writeFile writes one file in memory, where a sync would be of no use.
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

// ensureTmpfs makes the folder of secrets and configs, and mounts a tmpfs on it unless the folder
// is in memory already.
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

// removeFolders removes all files of a task on this host outside containerd.
func (r *Runtime) removeFolders(ctx context.Context, id string) error {
	return errors.Join(os.RemoveAll(r.filesDir(id)), tree.RemoveAll(ctx, r.taskDir(id)))
}

// Recover removes what a daemon that was killed has left unfinished, and closes the folders above
// containers' data to other users of the host. It is called when the daemon starts, before any
// other method.
func (r *Runtime) Recover() error {
	err := private.Restrict(r.cfg.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(r.volumes.Recover(), err)
}

// Close unmounts the tmpfs of secrets and configs if no task has files in it.
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
