package storage

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"swarm/internal/disk"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/state"
)

// fakeDisk is a node's disk of 100 bytes with images of 10 bytes each, and the managers that are
// asked before one is removed.
type fakeDisk struct {
	engine.Storage
	engine.LogStore
	other    int // bytes of something else
	held     []engine.Holding
	logs     []engine.LogSize
	refuse   []string // digests that managers give no leave for
	busy     string   // the digest whose removal fails
	released []string
	undone   []string
	counting func() // called while sizes of volumes are added up
}

func (f *fakeDisk) Dir() string              { return "/state" }
func (f *fakeDisk) Changed() <-chan struct{} { return nil }
func (f *fakeDisk) Sizes() []engine.LogSize  { return slices.Clone(f.logs) }

func (f *fakeDisk) Space() disk.Space { s, _ := f.Now(); return s }

func (f *fakeDisk) Holdings(context.Context) ([]engine.Holding, int64, error) {
	return slices.Clone(f.held), 0, nil
}
func (f *fakeDisk) ContainerSizes(context.Context) (map[string]int64, error) { return nil, nil }

func (f *fakeDisk) Volumes() engine.Volumes { return nil }

func (f *fakeDisk) VolumeSizes(context.Context) (map[string]int64, error) {
	f.counting()
	return nil, nil
}

func (f *fakeDisk) Now() (disk.Space, error) {
	used := f.other + 10*len(f.held)
	for _, l := range f.logs {
		used += int(l.Bytes)
	}
	return disk.Space{Total: 100, Free: uint64(100 - used)}, nil
}

func (f *fakeDisk) Discard(id string) {
	f.logs = slices.DeleteFunc(f.logs, func(l engine.LogSize) bool { return l.TaskID == id })
}

func (f *fakeDisk) Remove(_ context.Context, digest string) error {
	if digest == f.busy {
		return errdefs.ErrFailedPrecondition
	}
	f.held = slices.DeleteFunc(f.held, func(h engine.Holding) bool { return h.Image.GetDigest() == digest })
	return nil
}

// Invoke acts as the managers' Release.
func (f *fakeDisk) Invoke(_ context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	req := args.(*swarmv1.ReleaseRequest)
	for _, d := range req.GetDigests() {
		switch {
		case req.GetUndo():
			f.undone = append(f.undone, d)
		case !slices.Contains(f.refuse, d):
			f.released = append(f.released, d)
			reply.(*swarmv1.ReleaseResponse).Granted = append(reply.(*swarmv1.ReleaseResponse).Granted, d)
		}
	}
	return nil
}

func (f *fakeDisk) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

// fakeTasks is a node without tasks and containers.
type fakeTasks struct{ Tasks }

func (fakeTasks) List(context.Context) ([]engine.Found, error) { return nil, nil }

type fakeImages struct {
	engine.Images
	disk *fakeDisk
}

func (f fakeImages) Remove(ctx context.Context, digest string) error {
	return f.disk.Remove(ctx, digest)
}

func newTestDisk(t *testing.T, f *fakeDisk, cfg Config) *Disk {
	t.Helper()
	d, _ := newTestDiskIn(t, t.TempDir(), f, cfg)
	d.began = time.Now().Add(-1000 * time.Hour)
	return d
}

// newTestDiskIn also returns a function that commits the state and closes it.
func newTestDiskIn(t *testing.T, dir string, f *fakeDisk, cfg Config) (*Disk, func() error) {
	t.Helper()
	db, saved, err := state.Open(dir, "c1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	save := sync.OnceValue(func() error {
		ended, end := context.WithCancel(context.Background())
		end()
		return errors.Join(db.Run(ended), db.Close()) // Run writes the recorded changes and ends.
	})
	t.Cleanup(func() { _ = save() })
	return New(cfg, Deps{
		Log: slog.New(slog.DiscardHandler), Containers: fakeTasks{}, Images: fakeImages{disk: f}, Storage: f, Space: f, Logs: f,
		Objects: assignment.New(), State: db, Tasks: fakeTasks{}, Synced: make(chan struct{}),
		Conn: func() (grpc.ClientConnInterface, error) { return f, nil },
	}, saved), save
}

func idleImage(digest string, age time.Duration) engine.Holding {
	return engine.Holding{Image: &swarmv1.Image{Name: digest, Digest: digest}, Since: time.Now().Add(-age)}
}

func digestsOf(held []engine.Holding) []string {
	var out []string
	for _, h := range held {
		out = append(out, h.Image.GetDigest())
	}
	return out
}

func TestCleaner(t *testing.T) {
	used := idleImage("used", 900*time.Hour)
	used.Containers = 1
	images := func() []engine.Holding {
		return []engine.Holding{idleImage("fresh", time.Minute), idleImage("b", 2*time.Hour), idleImage("a", 3*time.Hour), idleImage("old", 800*time.Hour), used}
	}
	logs := []engine.LogSize{{TaskID: "t1", Bytes: 5, Retired: time.Now().Add(-time.Hour)}, {TaskID: "t2", Bytes: 5, Retired: time.Now().Add(-time.Minute)}, {TaskID: "t3", Bytes: 5, Retired: time.Time{}}}
	cfg := Config{Start: 85, Stop: 75, ImageAge: 720 * time.Hour}
	for _, c := range []struct {
		name string
		disk fakeDisk
		cfg  Config
		held []string
		logs int
	}{
		{"only what is old", fakeDisk{held: images()}, cfg, []string{"fresh", "b", "a", "used"}, 3},
		{"nothing is old", fakeDisk{held: images()}, Config{}, []string{"fresh", "b", "a", "old", "used"}, 3},
		{"full: the oldest, until there is enough", fakeDisk{held: images(), other: 25}, Config{}, []string{"fresh", "b", "used"}, 3},
		{"full: images, then logs", fakeDisk{held: images(), other: 34, refuse: []string{"b"}}, Config{}, []string{"fresh", "b", "used"}, 2},
		{"no leave", fakeDisk{held: images(), other: 20, refuse: []string{"old", "a"}}, Config{}, []string{"fresh", "a", "old", "used"}, 2},
		{"a container was made meanwhile", fakeDisk{held: images(), busy: "old"}, cfg, []string{"fresh", "b", "a", "old", "used"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := c.disk
			f.logs = slices.Clone(logs)
			if err := newTestDisk(t, &f, c.cfg).clean(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.held, digestsOf(f.held)); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			if len(f.logs) != c.logs {
				t.Errorf("logs: got %v, want %d", f.logs, c.logs)
			}
			if c.disk.busy != "" && !slices.Equal(f.undone, []string{c.disk.busy}) {
				t.Errorf("taken back: %v", f.undone)
			}
		})
	}
}

func TestCleaner_ARestartKeepsWhatItKnows(t *testing.T) {
	dir := t.TempDir()
	image := idleImage("a", 900*time.Hour)
	image.Containers = 1
	f := &fakeDisk{held: []engine.Holding{image}}
	first, save := newTestDiskIn(t, dir, f, Config{})
	if _, err := first.unusedImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	second, _ := newTestDiskIn(t, dir, f, Config{})
	if got := second.lastUse(image); time.Since(got) > time.Minute {
		t.Errorf("used a moment ago, and after the restart at %s", got)
	}
	if got, want := second.began, first.began.Truncate(time.Second); !got.Equal(want) {
		t.Errorf("began %s, and after the restart %s", want, got)
	}
	f.held = nil
	if _, err := second.unusedImages(t.Context()); err != nil || len(second.used) > 0 {
		t.Errorf("an image that is gone is remembered: %v, %v", second.used, err)
	}
}
