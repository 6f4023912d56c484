//go:build linux

package inroot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tree is a hostile root beside a folder that must not be reached.
func tree(t *testing.T) (root, outside string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes devices and mounts")
	}
	dir := t.TempDir()
	root, outside = filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(root, "etc"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(outside, "secret"), "of the host")
	return root, outside
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadFile(t *testing.T) {
	const name = "/etc/passwd"
	for _, c := range []struct {
		what string
		make func(root, outside, at string) error
		want string // what is read
		says string // of the error, which is ErrInvalidArgument; empty: none
	}{
		{"absent", func(_, _, _ string) error { return nil }, "", ""},
		{"regular", func(_, _, at string) error { return os.WriteFile(at, []byte("users"), 0o600) }, "users", ""},
		{"too large", func(_, _, at string) error { return os.WriteFile(at, make([]byte, 101), 0o600) }, "", "has 101 bytes, at most 100"},
		{"sparse and huge", func(_, _, at string) error { return errors.Join(os.WriteFile(at, nil, 0o600), os.Truncate(at, 10<<30)) }, "", "at most 100"},
		{"named pipe", func(_, _, at string) error { return unix.Mkfifo(at, 0o644) }, "", "is a named pipe"},
		{"device", func(_, _, at string) error { return unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, "", "is a device"},
		{"terminal", func(_, _, at string) error { return unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))) }, "", "is a device"},
		{"socket", func(_, _, at string) error { return unix.Mknod(at, unix.S_IFSOCK|0o666, 0) }, "", "is a socket"},
		{"folder", func(_, _, at string) error { return os.Mkdir(at, 0o755) }, "", "is a folder"},
		{"no folder above it", func(root, _, _ string) error {
			return errors.Join(os.Remove(filepath.Join(root, "etc")), os.WriteFile(filepath.Join(root, "etc"), nil, 0o644))
		}, "", ""},
		{"link within", func(root, _, at string) error {
			return errors.Join(os.WriteFile(filepath.Join(root, "users"), []byte("linked"), 0o644), os.Symlink("/users", at))
		}, "linked", ""},
		{"link out, absolute", func(_, outside, at string) error { return os.Symlink(filepath.Join(outside, "secret"), at) }, "", ""},
		{"link out, relative", func(_, _, at string) error { return os.Symlink("../../../outside/secret", at) }, "", ""},
		{"link of a folder out", func(root, outside, _ string) error {
			return errors.Join(os.Remove(filepath.Join(root, "etc")), os.Symlink(outside, filepath.Join(root, "etc")))
		}, "", ""},
		{"link to itself", func(_, _, at string) error { return os.Symlink("passwd", at) }, "", "too many levels of symbolic links"},
		{"link to a device", func(root, _, at string) error {
			return errors.Join(unix.Mknod(filepath.Join(root, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))), os.Symlink("/zero", at))
		}, "", "is a device"},
	} {
		t.Run(c.what, func(t *testing.T) {
			root, outside := tree(t)
			if err := c.make(root, outside, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
			got, err := ReadFile(root, name, 100)
			switch {
			case c.says == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case c.says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, want invalid argument: %s", err, c.says)
			case string(got) != c.want:
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A container's /proc is part of its tree.
func TestReadFile_OfProc(t *testing.T) {
	tree(t)
	for _, name := range []string{"/self/root/etc/passwd", "/self/fd/0", "/self/exe", "/kmsg", "/self/environ"} {
		if got, err := ReadFile("/proc", name, 100); len(got) > 0 {
			t.Errorf("%s: read %d bytes (%v)", name, len(got), err)
		}
	}
}

// swap exchanges a folder of the tree with a link to the outside, again and again, until the test
// ends.
func swap(t *testing.T, root, outside string) {
	t.Helper()
	sub, link := filepath.Join(root, "sub"), filepath.Join(root, "link")
	if err := errors.Join(os.Mkdir(sub, 0o755), os.Symlink(outside, link)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	t.Cleanup(func() { close(stop); wg.Wait() })
}

func TestOpen_BesideSwaps(t *testing.T) {
	root, outside := tree(t)
	swap(t, root, outside)
	is, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for range 5000 {
		for _, open := range []func(string, string) (*os.File, error){Open, MkdirAll} {
			f, err := open(root, "sub")
			if err != nil {
				continue // It was the link, which leads nowhere within.
			}
			opened++
			if info, err := f.Stat(); err != nil || os.SameFile(info, is) {
				t.Fatalf("opened the folder outside (%v)", err)
			}
			f.Close()
		}
	}
	if opened == 0 {
		t.Error("never opened the folder: the test shows nothing")
	}
	t.Logf("opened %d of %d times", opened, 10000)
}

func TestBind(t *testing.T) {
	root, outside := tree(t)
	write(t, filepath.Join(root, "file"), "text")
	// A mount below, in a peer group whose members see each other's mounts.
	below := filepath.Join(root, "etc")
	if err := errors.Join(unix.Mount("tmpfs", below, "tmpfs", 0, ""), unix.Mount("", below, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	write(t, filepath.Join(below, "deep"), "deep")
	for _, c := range []struct{ name, has, text string }{{".", "etc/deep", "deep"}, {"etc", "deep", "deep"}, {"file", "", "text"}} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Open(root, c.name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			target := filepath.Join(outside, "target")
			if err := Bind(f, target); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(target, c.has)); string(got) != c.text {
				t.Errorf("got %q, %v, want %q", got, err, c.text)
			}
			if err := Unbind(target); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the target is still there: %v", err)
			}
			if _, err := os.Stat(filepath.Join(below, "deep")); err != nil {
				t.Errorf("what is mounted at the original went too: %v", err)
			}
		})
	}
}

// Unbind completes an interrupted call, and never removes other files.
func TestUnbind(t *testing.T) {
	root, _ := tree(t)
	if err := Unbind(filepath.Join(root, "absent")); err != nil {
		t.Errorf("absent: %v", err)
	}
	empty := filepath.Join(root, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Unbind(empty); err != nil {
		t.Errorf("not mounted yet: %v", err)
	}
	full := filepath.Join(root, "full")
	if err := os.MkdirAll(filepath.Join(full, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Unbind(full); err == nil {
		t.Error("removed a folder that has something in it")
	}
}

func TestResolve(t *testing.T) {
	root := t.TempDir()
	for name, to := range map[string]string{"a": "/b/c", "up": "../../..", "self": "self", "abs": "/proc"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"/": "/", "x": "/x", "/x/../y": "/y", "a/d": "/b/c/d", "up": "/", "up/etc": "/etc", "/abs/sys": "/proc/sys",
	} {
		if got, err := Resolve(root, name); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
	if got, err := Resolve(root, "self/x"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: got %s, %v", got, err)
	}
}
