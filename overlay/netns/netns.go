//go:build linux

// Package netns creates, pins and enters network namespaces.
//
// It owns the pin files it is asked to make (a bind mount of the namespace on an
// empty file, as `ip netns` does, at a path the caller chooses) and the rules of
// running Go code in a foreign namespace. It knows nothing about links, addresses
// or firewalls. Callers: overlay/bridge, overlay/vswitch, dev. It runs one
// goroutine per Do or Thread call, and waits for it.
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

// ID tells namespaces apart: the device and inode of the nsfs file.
type ID struct{ Dev, Ino uint64 }

// Namespace is an open handle; it keeps the namespace alive until Close.
type Namespace struct {
	file *os.File
	id   ID
}

// Create makes a namespace with a running loopback and pins it at path, whose
// folder it creates. ErrAlreadyExists when path is a pin already; a left-over
// plain file is taken over.
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

// Delete removes the pin. The namespace itself goes with its last process,
// handle and pin. A missing pin is no error.
func Delete(path string) error {
	// More than one pin can be stacked after a crash between mount and record.
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

// Pinned reports whether path is a namespace file, not merely a file left where one was.
func Pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Open returns a handle to the namespace pinned at path.
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

// OfProcess returns the identity of a process's namespace.
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

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// FD is valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// ID identifies the namespace among all that live now.
func (n *Namespace) ID() ID { return n.id }

// Do runs fn on a thread inside the namespace. What fn opens stays there;
// goroutines that it starts do not.
func (n *Namespace) Do(fn func() error) error {
	return thread.Lend(func() (bool, error) {
		back, err := os.Open(self)
		if err != nil {
			return true, err
		}
		defer back.Close()
		if err := n.Enter(); err != nil {
			return true, err
		}
		err = fn()
		// A thread that cannot go back must not serve another goroutine.
		return unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil, err
	})
}

// Enter moves the calling thread, which the caller has locked, into the namespace.
func (n *Namespace) Enter() error {
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// Netlink opens a route netlink handle inside the namespace.
func (n *Namespace) Netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(vns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink in namespace: %w", err)
	}
	return h, nil
}

// Sysctl reads a network sysctl, named below net: "ipv4.ip_forward", or with
// slashes throughout where an interface's name may have a dot in it.
func (n *Namespace) Sysctl(key string) (string, error) {
	var out string
	err := n.Do(func() error {
		b, err := os.ReadFile(sysctlPath(key))
		out = strings.TrimSpace(string(b))
		return err
	})
	return out, err
}

// SetSysctls writes network sysctls. A key that this kernel does not have is an error.
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

// setSysctl leaves alone what is as it should be: some writes need the lock of all the machine's interfaces, and the kernel has
// them try again at once, and again, until it is free.
func setSysctl(path, value string) error {
	b, err := os.ReadFile(path)
	if err == nil && slices.Equal(strings.Fields(string(b)), strings.Fields(value)) {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0o644)
}

// sysctlPath relies on /proc/sys/net showing the namespace of the thread that opens it.
func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return "/proc/sys/net/" + key
}

// Thread runs fn on an OS thread of its own, which ends with it: fn may change
// the thread's namespaces at will. A process that fn starts inherits them.
func Thread(fn func() error) error { return thread.Run(fn) }

func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}})
}
