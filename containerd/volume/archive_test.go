//go:build linux

package volume

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	swarmv1 "swarm/proto/swarm/v1"
)

// filled returns a store with a volume that has every kind of file.
func filled(t *testing.T) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to give files to other users")
	}
	s := newTestStore(t)
	if _, err := s.Create(&swarmv1.Volume{Name: "from"}); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(s.dataDir("from"), name) }
	if err := errors.Join(
		os.Mkdir(at("folder"), 0o700), os.WriteFile(at("folder/file"), []byte("text"), 0o640), os.Chown(at("folder/file"), 70, 71),
		os.Chmod(at("folder"), os.ModeSticky|0o777), os.Link(at("folder/file"), at("link")), os.Symlink("/etc/passwd", at("symbolic")),
		os.WriteFile(at(".wh.file"), []byte("no whiteout"), 0o644), unix.Mkfifo(at("pipe"), 0o600), unix.Setxattr(at("link"), "user.a", []byte("b"), 0),
		os.WriteFile(at("large"), make([]byte, 3<<20), 0o600), os.Chown(s.dataDir("from"), 26, 26), os.Chmod(s.dataDir("from"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore_ExportAndImport(t *testing.T) {
	s := filled(t)
	var archive bytes.Buffer
	if err := s.Export(t.Context(), "from", &archive); err != nil {
		t.Fatal(err)
	}
	packed := archive.Bytes()
	made, err := s.Import(t.Context(), &swarmv1.Volume{Name: "to", Labels: map[string]string{"a": "b"}}, false, &archive)
	if err != nil || made.GetName() != "to" || made.GetLabels()["a"] != "b" {
		t.Fatalf("got %v, %v", made, err)
	}
	wantCopy(t, s)
	if _, err := s.Import(t.Context(), &swarmv1.Volume{Name: "to"}, false, bytes.NewReader(packed)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a volume that exists: %v", err)
	}
	// A shortened or changed archive changes nothing.
	for name, bad := range map[string][]byte{"shortened": packed[:len(packed)-5], "empty": nil, "no archive": []byte("text")} {
		if _, err := s.Import(t.Context(), &swarmv1.Volume{Name: "to"}, true, bytes.NewReader(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCopy(t, s)
	if err := s.makeFor(t, "t1", named("to", "", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), &swarmv1.Volume{Name: "to"}, true, bytes.NewReader(packed)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a volume in use: %v", err)
	}
	if err := errors.Join(s.Release("t1"), os.Remove(filepath.Join(s.dataDir("to"), "link"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), &swarmv1.Volume{Name: "to"}, true, bytes.NewReader(packed)); err != nil {
		t.Fatal(err)
	}
	wantCopy(t, s)
	if left, err := filepath.Glob(filepath.Join(s.cfg.Dir, ".*")); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// wantCopy checks the volume to, which was made from the volume of filled.
func wantCopy(t *testing.T, s *Store) {
	t.Helper()
	at := func(name string) string { return filepath.Join(s.dataDir("to"), name) }
	for name, want := range map[string]string{"folder/file": "text", "link": "text", ".wh.file": "no whiteout"} {
		if got, err := os.ReadFile(at(name)); string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	stat := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t)
	}
	if f := stat("folder/file"); f.Uid != 70 || f.Gid != 71 || f.Ino != stat("link").Ino || f.Mode&0o7777 != 0o640 {
		t.Errorf("file: %+v", f)
	}
	if top := stat("."); top.Uid != 26 || top.Gid != 26 || top.Mode&0o7777 != 0o700 {
		t.Errorf("the volume's folder: %+v", top)
	}
	if stat("folder").Mode&0o7777 != 0o1777 || stat("pipe").Mode&syscall.S_IFMT != syscall.S_IFIFO || stat("large").Size != 3<<20 {
		t.Error("folder, pipe or large file differ")
	}
	if target, err := os.Readlink(at("symbolic")); target != "/etc/passwd" {
		t.Errorf("link: %q, %v", target, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(at("folder/file"), "user.a", value); string(value[:max(n, 0)]) != "b" {
		t.Errorf("attribute: %q, %v", value[:max(n, 0)], err)
	}
}

// A container may replace a folder by a link while the archive is written.
func TestStore_ExportFollowsNoLink(t *testing.T) {
	s := newTestStore(t)
	if _, err := s.Create(&swarmv1.Volume{Name: "from"}); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(outside, "secret"), []byte("of the host"), 0o600), os.Symlink(outside, filepath.Join(s.dataDir("from"), "folder"))); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(s.dataDir("from"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if f, err := openIn(dir, "folder", unix.O_DIRECTORY); gone(err) != nil || f != nil {
		t.Errorf("the link is followed: %v, %v", f, err)
	}
}

func TestStore_ExportEndsWithItsContext(t *testing.T) {
	s := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Export(ctx, "from", new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.load("nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.Export(t.Context(), "nosuch", new(bytes.Buffer)); !errdefs.IsNotFound(err) {
		t.Errorf("no volume: %v", err)
	}
}
