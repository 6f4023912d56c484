//go:build linux

// Package netns creates, pins and enters network namespaces.
//
// A pin is a bind mount of the namespace on an empty file, as `ip netns` does, at a path that the
// caller chooses. The package owns the pins that it creates, and the rules for running Go code in
// another namespace. It does not know links, addresses or firewalls. Callers: the packages in
// overlay that configure a namespace, dev, bench and scenarios. Goroutines: one for each call of
// Do or Thread, which waits for it.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"swarm/internal/thread"
)

// self is the calling thread's network namespace.
const self = "/proc/thread-self/ns/net"

// ID identifies a namespace by the device and inode of its file in nsfs.
type ID struct{ Dev, Ino uint64 }

// Namespace is an open handle of a network namespace. It keeps the namespace alive until Close.
type Namespace struct {
	file *os.File
	id   ID
}

// Create creates a namespace with its loopback interface up, and pins it at path. It creates the
// folder of path. The error is ErrAlreadyExists if path is a pin already. Create reuses a plain
// file at path.
func Create(path string) error {
	if Pinned(path) {
		return fmt.Errorf("create network namespace %s: %w", path, errdefs.ErrAlreadyExists)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	f.Close()
	err = Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		return unix.Mount(self, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("create network namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Delete removes the pin. The kernel deletes the namespace when its last process, handle and pin
// are gone. Delete returns nil if there is no pin.
func Delete(path string) error {
	// After a crash there may be several pins on top of each other.
	for Pinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("delete network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace: %w", err)
	}
	return nil
}

// Pinned reports whether path is the pin of a namespace, and not just a plain file.
func Pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Open returns a handle to the namespace pinned at path. The error is ErrNotFound if path is no
// pin.
func Open(path string) (*Namespace, error) {
	if !Pinned(path) {
		return nil, fmt.Errorf("network namespace %s: %w", path, errdefs.ErrNotFound)
	}
	return open(path)
}

// Current returns a handle to the namespace that the calling thread is in.
func Current() (*Namespace, error) {
	return open(self)
}

// OfProcess returns the ID of a process's network namespace.
func OfProcess(pid int) (ID, error) {
	return identify(fmt.Sprintf("/proc/%d/ns/net", pid))
}

func open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &Namespace{file: f, id: ID{Dev: st.Dev, Ino: st.Ino}}, nil
}

func identify(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Close releases the handle.
func (n *Namespace) Close() error { return n.file.Close() }

// FD returns the file descriptor of the handle. It is valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// ID returns the namespace's ID. It is unique among the namespaces that exist now.
func (n *Namespace) ID() ID { return n.id }

// Do runs fn on a thread inside the namespace. Sockets and files that fn opens stay in the
// namespace. Goroutines that fn starts run outside of it.
func (n *Namespace) Do(fn func() error) error {
	return thread.RunReusable(func() (bool, error) {
		back, err := os.Open(self)
		if err != nil {
			return true, err
		}
		defer back.Close()
		if err := n.Enter(); err != nil {
			return true, err
		}
		err = fn()
		// A thread that cannot return must not run another goroutine.
		return unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil, err
	})
}

// Enter moves the calling thread into the namespace. The caller must have locked its goroutine to
// the thread.
func (n *Namespace) Enter() error {
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// Netlink opens a route netlink handle inside the namespace. The caller closes it.
func (n *Namespace) Netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(vns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink in namespace: %w", err)
	}
	return h, nil
}

// Sysctl reads a network sysctl. key is its name without "net.": "ipv4.ip_forward". Use slashes
// instead of dots if the name of an interface in key may contain a dot.
func (n *Namespace) Sysctl(key string) (string, error) {
	var out string
	err := n.Do(func() error {
		b, err := os.ReadFile(sysctlPath(key))
		out = strings.TrimSpace(string(b))
		return err
	})
	return out, err
}

// SetSysctls writes network sysctls. The keys are as in Sysctl. It tries all of them, and returns
// an error for a key that this kernel does not have.
func (n *Namespace) SetSysctls(values map[string]string) error {
	return n.Do(func() error {
		var errs []error
		for key, value := range values {
			if err := setSysctl(sysctlPath(key), value); err != nil {
				errs = append(errs, fmt.Errorf("sysctl %s=%s: %w", key, value, err))
			}
		}
		return errors.Join(errs...)
	})
}

// setSysctl writes a sysctl only if the value differs. Some writes need a lock that all interfaces
// of the machine share, and the kernel repeats such a write in a busy loop until the lock is free.
func setSysctl(path, value string) error {
	b, err := os.ReadFile(path)
	if err == nil && slices.Equal(strings.Fields(string(b)), strings.Fields(value)) {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0o644)
}

// sysctlPath returns a path below /proc/sys/net, which shows the namespace of the thread that opens
// it.
func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return "/proc/sys/net/" + key
}

// Thread runs fn on a new OS thread, which ends when fn returns. So fn may change the thread's
// namespaces. A process that fn starts inherits them.
func Thread(fn func() error) error { return thread.Run(fn) }

func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}})
}
