//go:build linux

package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"swarm/internal/private"
	"swarm/worker/engine"
)

// As in Docker, a container may write to its /etc/resolv.conf, /etc/hosts and /etc/hostname. The
// files are on a tmpfs of the task, so that a container can fill that and not the host's /run.

// etcRoom is how many bytes a container may add to the files on its tmpfs.
const etcRoom = 64 << 10

func (r *Runtime) etcRoot() string         { return filepath.Join(r.cfg.RunDir, "etc") }
func (r *Runtime) etcDir(id string) string { return filepath.Join(r.etcRoot(), id) }

// etcFiles returns the fields of a container that name files of its /etc.
func etcFiles(c *engine.Container) []*string {
	return []*string{&c.ResolvConf, &c.HostsFile, &c.HostnameFile}
}

// withEtc returns the container with the paths to which writeEtc copies these files.
func (r *Runtime) withEtc(c engine.Container) engine.Container {
	for i, path := range etcFiles(&c) {
		if *path != "" {
			*path = filepath.Join(r.etcDir(c.Task.GetId()), strconv.Itoa(i))
		}
	}
	return c
}

// writeEtc copies the files of a container's /etc to a new tmpfs of the task. It removes an older
// one.
func (r *Runtime) writeEtc(c engine.Container) error {
	texts, size := make(map[string][]byte), etcRoom
	to := r.withEtc(c)
	for i, from := range etcFiles(&c) {
		if *from == "" {
			continue
		}
		text, err := os.ReadFile(*from)
		if err != nil {
			return err
		}
		texts[*etcFiles(&to)[i]] = text
		size += len(text)
	}
	id := c.Task.GetId()
	if err := r.removeEtc(id); err != nil || len(texts) == 0 {
		return err
	}
	if err := private.Folder(r.etcRoot()); err != nil {
		return err
	}
	dir := r.etcDir(id)
	if err := os.Mkdir(dir, private.Mode); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=0700,nr_inodes=8,size=%d", size)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	for path, text := range texts {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeEtc removes the tmpfs of writeEtc, also after a call that was interrupted.
func (r *Runtime) removeEtc(id string) error {
	dir := r.etcDir(id)
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: nothing is mounted at dir.
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
