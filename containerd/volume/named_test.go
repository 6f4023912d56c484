//go:build linux

package volume

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

func newTestStore(t *testing.T) *Store {
	dir := t.TempDir()
	return New(Config{
		Dir: filepath.Join(dir, "volumes"), TasksDir: filepath.Join(dir, "tasks"), StagingDir: filepath.Join(dir, "staged"),
	}, Deps{Log: slog.New(slog.DiscardHandler)})
}

// make makes the volumes of a task as the runtime does.
func (s *Store) makeFor(t *testing.T, task string, mounts ...*swarmv1.Mount) error {
	t.Helper()
	plan, err := s.Plan(task, mounts, nil)
	if err != nil {
		return err
	}
	return s.Make(t.Context(), task, plan, nil)
}

func named(name, subpath string, options map[string]string) *swarmv1.Mount {
	return &swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: name, Target: "/" + name + subpath, VolumeOptions: &swarmv1.VolumeOptions{
		NoCopy: true, Subpath: subpath, Labels: map[string]string{"a": "b"}, DriverConfig: &swarmv1.Driver{Options: options},
	}}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStore_LifeOfAVolume(t *testing.T) {
	s := newTestStore(t)
	changed := s.Changed()
	if err := s.makeFor(t, "t1", named("data", "", nil), named("data", "/part", nil)); err != nil {
		t.Fatal(err)
	}
	if !isClosed(changed) {
		t.Error("the new volume is no change")
	}
	if err := errors.Join(s.makeFor(t, "t1", named("data", "", nil)), s.makeFor(t, "t2", named("data", "", nil))); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 || list[0].GetName() != "data" || list[0].GetLabels()["a"] != "b" || list[0].GetDriver().GetName() != "local" {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := s.Remove(t.Context(), "data"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "t1, t2") {
		t.Errorf("remove of a volume in use: %v", err)
	}
	// The folder of t2 is gone, so that its container is gone too: it does not count as a user.
	if err := errors.Join(s.Release("t1"), s.Release("t1"), os.RemoveAll(filepath.Join(s.cfg.TasksDir, "t2"))); err != nil {
		t.Fatal(err)
	}
	changed = s.Changed()
	if _, err := s.Remove(t.Context(), "data"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir("data")); !errors.Is(err, fs.ErrNotExist) || !isClosed(changed) {
		t.Errorf("after the removal: %v, changed %v", err, isClosed(changed))
	}
	if _, err := s.Remove(t.Context(), "data"); !errdefs.IsNotFound(err) {
		t.Errorf("remove of no volume: %v", err)
	}
}

func TestStore_CreateAcceptsWhatExists(t *testing.T) {
	s := newTestStore(t)
	v := &swarmv1.Volume{Name: "v", Labels: map[string]string{"k": "1"}}
	for range 2 {
		made, err := s.Create(v)
		if err != nil || made.GetLabels()["k"] != "1" {
			t.Fatalf("got %v, %v", made, err)
		}
	}
	other := &swarmv1.Volume{Name: "v", Driver: &swarmv1.Driver{Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}}}
	if _, err := s.Create(other); !errdefs.IsAlreadyExists(err) {
		t.Errorf("other options: %v", err)
	}
	// A volume of an older build has no file that says how it was made.
	if err := os.Remove(filepath.Join(s.dir("v"), infoFile)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 1 || list[0].GetCreatedAt() == nil {
		t.Errorf("list: %v, %v", list, err)
	}
}

// The file system of a volume is mounted from the first task that uses it to the last.
func TestStore_MountsWhatOptionsName(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	s := newTestStore(t)
	options := map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700"}
	t.Cleanup(func() { _ = unmountVolume(s.dataDir("fast")) })
	mounted := func(want bool) {
		t.Helper()
		if got, err := isMounted(s.dataDir("fast")); got != want || err != nil {
			t.Fatalf("mounted: %v, %v, want %v", got, err, want)
		}
	}
	if err := s.makeFor(t, "t1", named("fast", "", options)); err != nil {
		t.Fatal(err)
	}
	mounted(true)
	// Without options, a mount means the volume as it was made.
	if err := errors.Join(s.makeFor(t, "t2", named("fast", "", nil)), s.Release("t1")); err != nil {
		t.Fatal(err)
	}
	mounted(true)
	if err := s.makeFor(t, "t3", named("fast", "", map[string]string{"type": "tmpfs", "device": "other"})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("other options: %v", err)
	}
	if err := unmountVolume(s.dataDir("fast")); err != nil { // The host was restarted.
		t.Fatal(err)
	}
	if err := s.Mount("t2"); err != nil {
		t.Fatal(err)
	}
	mounted(true)
	if err := s.Release("t2"); err != nil {
		t.Fatal(err)
	}
	mounted(false)
}

func TestStore_SizesAreReportedWhenTheyDiffer(t *testing.T) {
	s := newTestStore(t)
	if _, err := s.Create(&swarmv1.Volume{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	measure := func(write int, want bool) {
		t.Helper()
		if write > 0 {
			if err := os.WriteFile(filepath.Join(s.dataDir("v"), "f"), make([]byte, write), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		changed := s.Changed()
		if _, err := s.Sizes(t.Context()); err != nil || isClosed(changed) != want {
			t.Errorf("after %d bytes: changed %v, %v, want %v", write, isClosed(changed), err, want)
		}
	}
	measure(1<<20, true)
	measure(0, false)
	measure(1<<20+4096, false)
	measure(2<<20, true)
	if list, err := s.List(t.Context()); err != nil || list[0].GetSize() < 2<<20 || list[0].GetMeasuredAt() == nil {
		t.Errorf("list: %v, %v", list, err)
	}
}
