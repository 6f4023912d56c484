//go:build linux

package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/tree/treetest"
)

// Deeply nested folders of a container do not prevent the removal of the folder.
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

// keep makes a folder with a file in it, and fails the test if the file does not survive.
func keep(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "precious")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
			t.Errorf("%s: got %q, %v: RemoveFolder has destroyed what is not its own", file, text, err)
		}
	})
	return dir
}

// Links inside the folder are removed. Their targets stay.
func TestRemoveFolder_FollowsNoLinkInside(t *testing.T) {
	outside := keep(t, filepath.Join(t.TempDir(), "outside"))
	dir := filepath.Join(t.TempDir(), "state")
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "volumes"), 0o755),
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(outside, "precious"), filepath.Join(dir, "volumes", "file")),
		os.Symlink("../../", filepath.Join(dir, "volumes", "up")),
		os.Symlink(dir, filepath.Join(dir, "volumes", "loop")),
		os.Link(filepath.Join(outside, "precious"), filepath.Join(dir, "hard")))
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := RemoveFolder(t.Context(), dir); !gone || err != nil {
		t.Errorf("removed %v, %v", gone, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// A link to the folder and the folder that it leads to stay.
func TestRemoveFolder_KeepsTheLinkItself(t *testing.T) {
	top := t.TempDir()
	real, link := filepath.Join(top, "disk"), filepath.Join(top, "state")
	keep(t, filepath.Join(top, "neighbour"))
	err := errors.Join(os.MkdirAll(filepath.Join(real, "a"), 0o755), os.Symlink("disk", link))
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := RemoveFolder(t.Context(), link); !gone || err != nil {
		t.Errorf("removed %v, %v", gone, err)
	}
	if target, err := os.Readlink(link); err != nil || target != "disk" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if left, err := os.ReadDir(real); err != nil || len(left) > 0 {
		t.Errorf("left behind the link: %v, %v", left, err)
	}
}

// Mounts inside the folder are unmounted first, because the content of a bind mount belongs to
// other programs. Several mounts may be on one place, and a place may have a blank in its name.
func TestRemoveFolder_KeepsWhatIsMountedInside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	top := t.TempDir()
	dir := filepath.Join(top, "state")
	outside := keep(t, filepath.Join(top, "outside"))
	bind := func(to string) {
		t.Helper()
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(outside, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Skip("no bind mounts here: ", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
	}
	bind(filepath.Join(dir, "volume"))
	bind(filepath.Join(dir, "volume")) // a second mount on the same place
	bind(filepath.Join(dir, "a volume", "deep", "er"))
	single := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(single, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Join(outside, "precious"), single, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(single, unix.MNT_DETACH) })
	// A folder whose name only begins with the name of the removed folder is another folder.
	neighbour := filepath.Join(top, "state2", "volume")
	bind(neighbour)
	if gone, err := RemoveFolder(t.Context(), dir); !gone || err != nil {
		t.Fatalf("removed %v, %v", gone, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(neighbour, "precious")); err != nil {
		t.Errorf("the neighbour's mount is gone: %v", err)
	}
}

// Folders of the system are refused, also through a link, and so are relative paths. The test uses
// folders that contain nothing of this host.
func TestRemoveFolder_RefusesWhatIsNotOurs(t *testing.T) {
	link := filepath.Join(t.TempDir(), "state")
	if err := os.Symlink("/", link); err != nil {
		t.Fatal(err)
	}
	// A mistake in this test must not cost the host its files: with an ended context, nothing below
	// a folder is removed.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, dir := range []string{link, ".", "../install"} {
		gone, err := RemoveFolder(ctx, dir)
		if gone || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: removed %v, %v, want ErrInvalidArgument", dir, gone, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if gone, err := RemoveFolder(ctx, file); gone || !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: removed %v, %v, want ENOTDIR", gone, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestSystemFolders(t *testing.T) {
	for _, dir := range systemFolders {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			t.Errorf("%q is not a clean absolute path: no folder compares equal to it", dir)
		}
	}
}
