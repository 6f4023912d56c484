//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/private"
	"swarm/internal/tree"
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
