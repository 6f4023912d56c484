//go:build linux

package volume

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"swarm/internal/spec"
)

// mountVolume mounts the file system that the options of a volume name on its data folder, unless
// it is mounted. The caller holds the lock of the volume.
func (s *Store) mountVolume(n Named) error {
	if len(n.Options) == 0 {
		return nil
	}
	target := s.dataDir(n.Name)
	mounted, err := isMounted(target)
	if err != nil || mounted {
		return err
	}
	m, err := mountOf(n.Options)
	if err != nil {
		return err
	}
	if err := m.Mount(target); err != nil {
		var reason unix.Errno // without the paths and passwords that containerd's text has
		if !errors.As(err, &reason) {
			return err
		}
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount type=%s device=%s o=%s: %s",
			n.Options["type"], n.Options["device"], spec.ShownVolumeOptions(n.Options)["o"], reason))
	}
	return nil
}

// unmountUnused unmounts the file system of a volume that no task uses. The caller holds the lock
// of the volume.
func (s *Store) unmountUnused(name string) error {
	n, err := s.load(name)
	if err != nil || len(n.Options) == 0 {
		return nil
	}
	users, err := s.users(name)
	if err != nil || len(users) > 0 {
		return err
	}
	return unmountVolume(s.dataDir(name))
}

// isMounted reports whether something is mounted on a folder. It does not look at the folder,
// because a file server may not answer.
func isMounted(target string) (bool, error) {
	above, err := filepath.EvalSymlinks(filepath.Dir(target))
	if err != nil {
		return false, err
	}
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(filepath.Join(above, filepath.Base(target))))
	return len(found) > 0, err
}

// unmountVolume unmounts what is mounted on a volume's data folder, if anything is. It detaches the
// mount, because a file server may not answer.
func unmountVolume(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // Nothing is mounted there.
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// mountOf returns the mount that the options type, device and o ask for. As in Docker, addr in o
// may be a host name for nfs and cifs: the kernel takes only an address.
func mountOf(options map[string]string) (mount.Mount, error) {
	m := mount.Mount{Type: options["type"], Source: options["device"]}
	for o := range strings.SplitSeq(options["o"], ",") {
		if o == "" {
			continue
		}
		host, isAddr := strings.CutPrefix(o, "addr=")
		if isAddr && net.ParseIP(host) == nil {
			addr, err := net.ResolveIPAddr("ip", host)
			if err != nil {
				return m, fmt.Errorf("look up the file server %s: %w", host, err)
			}
			o = "addr=" + addr.String()
		}
		m.Options = append(m.Options, o)
	}
	if m.Type == "none" {
		m.Type = "bind"
	}
	return m, nil
}
