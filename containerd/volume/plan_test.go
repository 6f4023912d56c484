//go:build linux

package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

// A container that uses the volume already may make links while an image's files are copied.
func TestFilling_TakeFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	data, made, outside := filepath.Join(dir, "_data"), filepath.Join(dir, "copy"), filepath.Join(dir, "outside")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(made, "folder"), 0o750), os.Mkdir(data, 0o755), os.Mkdir(outside, 0o755), os.Chmod(made, os.ModeSticky|0o777),
		os.WriteFile(filepath.Join(made, "folder/f"), nil, 0o644), os.WriteFile(filepath.Join(made, "file"), []byte("image"), 0o644),
		os.WriteFile(filepath.Join(made, "new"), []byte("image"), 0o640), os.WriteFile(filepath.Join(outside, "file"), []byte("host"), 0o644),
		os.Symlink(outside, filepath.Join(data, "folder")), os.Symlink(filepath.Join(outside, "file"), filepath.Join(data, "file")),
	); err != nil {
		t.Fatal(err)
	}
	if err := (filling{Place: Place{Data: data}}).take(made); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"outside/file": "host", "_data/new": "image"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "f")); err == nil {
		t.Error("a file of the image was written outside of the volume")
	}
	if info, err := os.Stat(data); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("the volume's folder: %v, %v, want the image's mode", info.Mode(), err)
	}
}

func TestStore_VolumeOf(t *testing.T) {
	dir := t.TempDir()
	s := New(Config{Dir: filepath.Join(dir, "state/volumes")}, Deps{})
	data := filepath.Join(dir, "state/volumes/v/_data")
	if err := errors.Join(
		os.MkdirAll(data, 0o700), os.Symlink("state", filepath.Join(dir, "alias")), os.Symlink(data+"/a", filepath.Join(dir, "into")),
		os.Symlink("loop", filepath.Join(dir, "loop")), os.Symlink("../state/volumes", filepath.Join(dir, "state/back")),
	); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		data: "", data + "/": "", data + "/a/b": "a/b", data + "/../_data/a": "a", dir + "/alias/volumes/v/_data/a": "a",
		dir + "/into": "a", dir + "/into/b": "a/b", dir + "/state/back/v/_data/x": "x", "/etc": "", dir + "/state/volumes/v": "",
		dir + "/absent/deep": "", data + "/a/../../../../../etc": "",
	} {
		p, in, err := s.volumeOf(source)
		if err != nil || in != (want != "") || p.Sub != want && in || in && p.Data != data {
			t.Errorf("%s: got %+v, %v, %v, want %q", source, p, in, err, want)
		}
	}
	if _, _, err := s.volumeOf(dir + "/loop"); err == nil {
		t.Error("a link to itself: got no error")
	}
}

func TestStore_SubpathsAreCleaned(t *testing.T) {
	s := New(Config{Dir: t.TempDir()}, Deps{})
	v := Plan{Mounts: map[int]string{}}
	m := &swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: "v", VolumeOptions: &swarmv1.VolumeOptions{Subpath: "../../a/./b/"}}
	if err := s.planVolume(&v, "t", 0, m); err != nil || len(v.Staged) != 1 || v.Staged[0].Sub != "a/b" {
		t.Errorf("got %+v, %v, want the part a/b", v.Staged, err)
	}
}
