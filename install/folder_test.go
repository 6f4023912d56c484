//go:build linux

package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"swarm/internal/tree/treetest"
)

// Folders that a container has nested deeply do not keep a host from being cleaned.
func TestRemoveFolder_AnyDepth(t *testing.T) {
	treetest.FewDescriptors(t)
	dir := t.TempDir()
	treetest.Nest(t, dir, 1000)
	if gone, err := RemoveFolder(t.Context(), dir); !gone || err != nil {
		t.Errorf("removed %v, %v", gone, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestRemoveFolder(t *testing.T) {
	full := func(dir string) string {
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	wantGone := func(dir string) {
		t.Helper()
		if gone, err := RemoveFolder(t.Context(), dir); !gone || err != nil {
			t.Errorf("%s: removed %v, %v", dir, gone, err)
		}
	}
	plain := full(filepath.Join(t.TempDir(), "plain"))
	wantGone(plain)
	if gone, err := RemoveFolder(t.Context(), plain); gone || err != nil {
		t.Errorf("again: removed %v, %v", gone, err)
	}
	target, link := full(t.TempDir()), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	wantGone(link)
	if left, err := os.ReadDir(target); err != nil || len(left) > 0 {
		t.Errorf("behind the link: %v, %v", left, err)
	}
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	defer func() { _ = unix.Unmount(disk, unix.MNT_DETACH) }()
	inner := filepath.Join(full(disk), "a")
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	wantGone(disk)
	if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
		t.Errorf("on the disk: %v, %v", left, err)
	}
}
