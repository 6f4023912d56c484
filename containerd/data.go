//go:build linux

package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"swarm/containerd/mountover"
	"swarm/containerd/ocispec"
	"swarm/worker/engine"
)

// secretsDir is the folder in the container that is mounted as a whole, so that a file in it can be
// exchanged by a rename. Every other secret or config is a mount of its own.
const secretsDir = "/run/secrets"

// hostFile is a secret or config as a file of the host.
type hostFile struct {
	path string
	// inFolder is set if the file is in the folder that is mounted at secretsDir.
	inFolder bool
}

// hostFiles returns the files of the host in the order of the container's files.
func (r *Runtime) hostFiles(id string, files []engine.File) []hostFile {
	out := make([]hostFile, len(files))
	for i, f := range files {
		if rest, ok := strings.CutPrefix(f.Path, secretsDir+"/"); ok {
			out[i] = hostFile{path: filepath.Join(r.filesDir(id), "secrets", rest), inFolder: true}
		} else {
			out[i] = hostFile{path: filepath.Join(r.filesDir(id), strconv.Itoa(i))}
		}
	}
	return out
}

// fileMounts returns the mounts of the container's secrets and configs.
func (r *Runtime) fileMounts(c engine.Container) []ocispec.FileMount {
	var out []ocispec.FileMount
	for i, f := range r.hostFiles(c.Task.GetId(), c.Files) {
		m := ocispec.FileMount{Source: f.path, Target: c.Files[i].Path}
		if f.inFolder {
			m = ocispec.FileMount{Source: filepath.Join(r.filesDir(c.Task.GetId()), "secrets"), Target: secretsDir}
		}
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// writeFiles writes secrets and configs to the host.
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
	for i, f := range r.hostFiles(c.Task.GetId(), c.Files) {
		if err := writeFile(f, c.Files[i], accounts); err != nil {
			return fmt.Errorf("file %s: %w", c.Files[i].Path, err)
		}
	}
	return nil
}

// writeFile writes one file in memory, where a sync would be of no use. It takes effect as a whole.
func writeFile(to hostFile, f engine.File, accounts ocispec.Accounts) error {
	uid, err := accounts.UID(f.UID)
	if err != nil {
		return err
	}
	gid, err := accounts.GID(f.GID)
	if err != nil {
		return err
	}
	if to.inFolder {
		if err := os.MkdirAll(filepath.Dir(to.path), 0o755); err != nil {
			return err
		}
	}
	next := filepath.Join(filepath.Dir(to.path), ".next-"+filepath.Base(to.path))
	if err := os.WriteFile(next, f.Data, 0o600); err != nil {
		return err
	}
	if err := os.Chown(next, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(next, fs.FileMode(f.Mode)&fs.ModePerm); err != nil {
		return err
	}
	return os.Rename(next, to.path)
}

// Exchange replaces the data of the container's secrets and configs. See engine.Runtime.
func (r *Runtime) Exchange(ctx context.Context, taskID string, files []engine.File) error {
	if err := validID(taskID); err != nil {
		return err
	}
	if err := r.exchange(namespaced(ctx), taskID, files); err != nil {
		return fmt.Errorf("exchange files of container %s: %w", taskID, engine.Away(err))
	}
	return nil
}

func (r *Runtime) exchange(ctx context.Context, id string, files []engine.File) error {
	var accounts ocispec.Accounts
	known := false
	for i, to := range r.hostFiles(id, files) {
		was, err := os.ReadFile(to.generation(to.newest()))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not a file of the container: %w", files[i].Path, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return err
		}
		if bytes.Equal(was, files[i].Data) {
			continue
		}
		if !known {
			if accounts, err = r.accountsOf(ctx, id); err != nil {
				return err
			}
			known = true
		}
		if err := r.exchangeFile(ctx, id, to, files[i], accounts); err != nil {
			return fmt.Errorf("file %s: %w", files[i].Path, err)
		}
	}
	return nil
}

// accountsOf returns the accounts of the container's image.
func (r *Runtime) accountsOf(ctx context.Context, id string) (ocispec.Accounts, error) {
	c, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return ocispec.Accounts{}, err
	}
	img, err := r.images.Get(ctx, c.Image, "")
	if err != nil {
		return ocispec.Accounts{}, err
	}
	return img.Accounts, nil
}

// generation returns the path of one generation of the file. A file outside secretsDir has a
// generation for each exchange. The older ones stay while the container runs, because the kernel
// removes a mount when the file below it is removed.
func (f hostFile) generation(n int) string {
	if n == 0 {
		return f.path
	}
	return fmt.Sprintf("%s.%d", f.path, n)
}

// newest returns the number of the newest generation.
func (f hostFile) newest() int {
	n := 0
	for !f.inFolder {
		if _, err := os.Lstat(f.generation(n + 1)); err != nil {
			break
		}
		n++
	}
	return n
}

// exchangeFile replaces one file. A file outside secretsDir was bound into the container, so a new
// file must be mounted over it there. The new file gets its name last, so that an exchange that was
// interrupted is made again.
func (r *Runtime) exchangeFile(ctx context.Context, id string, to hostFile, f engine.File, accounts ocispec.Accounts) error {
	if to.inFolder || !r.started(id) {
		return writeFile(to, f, accounts)
	}
	next := hostFile{path: to.path + ".mounted"}
	if err := writeFile(next, f, accounts); err != nil {
		return err
	}
	resp, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	if err := mountover.Mount(int(resp.GetProcess().GetPid()), next.path, f.Path); err != nil {
		return err
	}
	return os.Rename(next.path, to.generation(to.newest()+1))
}

// ensureTmpfs makes the folder of secrets and configs, and mounts a tmpfs on it, which the kernel
// never swaps out if it knows the option noswap (Linux 6.4).
func (r *Runtime) ensureTmpfs() error {
	r.tmpfs.Lock()
	defer r.tmpfs.Unlock()
	dir := r.filesRoot()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(dir)
	if mounted || err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err = unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0700,noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// isMountPoint reports whether a file system is mounted on the folder.
func isMountPoint(dir string) (bool, error) {
	var self, parent unix.Stat_t
	if err := unix.Stat(dir, &self); err != nil {
		return false, fmt.Errorf("folder %s: %w", dir, err)
	}
	if err := unix.Stat(filepath.Dir(dir), &parent); err != nil {
		return false, fmt.Errorf("folder %s: %w", filepath.Dir(dir), err)
	}
	return self.Dev != parent.Dev, nil
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
