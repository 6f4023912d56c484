package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Config is the configuration of a Store. New fills in the defaults.
type Config struct {
	// Dir has a folder for each task. It must be absolute, and must survive a reboot.
	Dir    string
	NodeID string
	// SegmentBytes and Segments limit a task's log if the log options of the task do not. Defaults
	// 10 MB and 5.
	SegmentBytes int64
	Segments     int
	// RetainBytes and RetainAge limit the logs of retired tasks, in bytes on the disk and by age.
	// Defaults 1 GiB and a week.
	RetainBytes int64
	RetainAge   time.Duration

	inotify func() (int, error)
}

// Defaults of Config.
const (
	DefaultSegmentBytes = spec.DefaultLogSize
	DefaultSegments     = spec.DefaultLogFiles
	DefaultRetainBytes  = 1 << 30
	DefaultRetainAge    = 7 * 24 * time.Hour
)

// Deps are the live objects that a Store works with.
type Deps struct{ Log *slog.Logger }

// Store keeps the logs of a node's tasks. It implements engine.LogStore. Its methods may be called
// concurrently.
type Store struct {
	cfg   Config
	log   *slog.Logger
	watch *watcher
	retry *retries

	mu       sync.Mutex // guards what follows
	journals map[string]*journal
	retired  []retiree // ordered by the time of retirement; a log that is finished has no journal
	dirty    map[*journal]bool
	wake     chan struct{} // one token: dirty is not empty
}

var _ engine.LogStore = (*Store)(nil)

// New opens the logs in cfg.Dir. Each continues after its last record. The caller must call Run, or
// Close if it does not call Run.
func New(cfg Config, deps Deps) (*Store, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("log folder %q must be an absolute path: %w", cfg.Dir, errdefs.ErrInvalidArgument)
	}
	cfg.SegmentBytes = cmp.Or(cfg.SegmentBytes, DefaultSegmentBytes)
	cfg.Segments = cmp.Or(cfg.Segments, DefaultSegments)
	cfg.RetainBytes = cmp.Or(cfg.RetainBytes, DefaultRetainBytes)
	cfg.RetainAge = cmp.Or(cfg.RetainAge, DefaultRetainAge)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	if cfg.inotify == nil {
		cfg.inotify = newInotify
	}
	s := &Store{
		cfg: cfg, log: deps.Log, watch: newWatcher(cfg.inotify), retry: newRetries(),
		journals: map[string]*journal{}, dirty: map[*journal]bool{}, wake: make(chan struct{}, 1),
	}
	if err := s.open(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// open opens every task's folder. It logs and skips a folder that cannot be read, because the node
// must work without that log.
func (s *Store) open() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(s.cfg.Dir, e.Name())
		if r, ok := readRetiree(dir); ok {
			s.retired = append(s.retired, r)
			if finished(dir) {
				continue
			}
		}
		j, err := openJournal(dir, s.cfg.SegmentBytes, s.cfg.Segments)
		if err != nil {
			s.log.Warn("log is not readable", "task", e.Name(), "err", err)
			continue
		}
		s.journals[e.Name()] = j
		s.follow(j)
	}
	slices.SortFunc(s.retired, func(a, b retiree) int { return a.at.Compare(b.at) })
	return nil
}

// Close closes the files of a Store whose Run was not called.
func (s *Store) Close() {
	s.watch.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.journals {
		j.close()
	}
}

// Run follows the sources until ctx ends, and closes the store.
func (s *Store) Run(ctx context.Context) error {
	defer s.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		s.watch.close()
		return nil
	})
	g.Go(func() error {
		err := s.watch.run(ctx, s.mark)
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	g.Go(func() error { s.watch.poll(ctx, s.mark); return nil })
	g.Go(func() error { return s.copy(ctx) })
	g.Go(func() error { return s.runRetries(ctx) })
	g.Go(func() error { return s.runPrune(ctx) })
	return g.Wait()
}

// follow begins to watch a journal's sources, and makes Run copy what they have already.
func (s *Store) follow(j *journal) {
	for _, src := range j.sources {
		if src == nil {
			continue
		}
		if err := s.watch.add(src.f.Name(), j); err != nil {
			s.log.Warn("polling container output once a second, because it cannot be watched", "task", j.task.Id, "err", err)
		}
	}
	s.mark(j)
}

// mark makes Run look for new output of a journal.
func (s *Store) mark(j *journal) {
	s.mu.Lock()
	s.dirty[j] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// copy copies the output of marked journals. The journals take turns.
func (s *Store) copy(ctx context.Context) error {
	buf := make([]byte, readSize)
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		dirty := s.dirty
		s.dirty = map[*journal]bool{}
		s.mu.Unlock()
		for j := range dirty {
			more, err := j.copy(buf, false)
			if err != nil { // usually the disk is full
				s.retry.add(j, false)
			}
			if err != nil && !j.failing {
				s.log.Error("copy output", "task", j.task.Id, "err", err)
			}
			j.failing = err != nil
			if more {
				s.mark(j)
			}
		}
	}
}

func (s *Store) get(id string) *journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journals[id]
}

// Create implements engine.LogStore.
func (s *Store) Create(t *swarmv1.Task, r *swarmv1.Revision) (string, error) {
	if t.Id == "" || t.Id != filepath.Base(t.Id) || t.Id[0] == '.' {
		return "", fmt.Errorf("create log: %q is not a task id: %w", t.Id, errdefs.ErrInvalidArgument)
	}
	driver := spec.LogDriver(t, r)
	l, err := spec.ParseLog(driver)
	if err != nil {
		return "", fmt.Errorf("create log of task %s: %w", t.Id, err)
	}
	if l.Driver == spec.LogNone {
		return "", nil
	}
	dir := filepath.Join(s.cfg.Dir, t.Id)
	if j := s.get(t.Id); j != nil {
		j.mu.Lock()
		over := j.overLocked()
		j.mu.Unlock()
		if !over {
			return dir, nil
		}
		s.remove(t.Id) // The journal is of an earlier container of the task. The output of the new container begins at offset 0.
	} else {
		s.Discard(t.Id)
	}
	container := r.GetSpec().GetTaskTemplate().GetContainerSpec()
	if err := writeTask(dir, t, driver, l.Details(container.GetLabels(), container.GetEnv())); err != nil {
		return "", fmt.Errorf("create log of task %s: %w", t.Id, err)
	}
	j, err := openJournal(dir, s.cfg.SegmentBytes, s.cfg.Segments)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.journals[t.Id] = j
	s.mu.Unlock()
	s.follow(j)
	return dir, nil
}

func writeTask(dir string, t *swarmv1.Task, driver *swarmv1.Driver, details map[string]string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	raw, err := (&swarmv1.Task{Id: t.Id, ServiceId: t.ServiceId, Slot: t.Slot, NodeId: t.NodeId, LogDriver: driver}).MarshalVT()
	if err != nil {
		return err
	}
	files := map[string][]byte{taskFile: raw, engine.StdoutFile: nil, engine.StderrFile: nil}
	if len(details) > 0 {
		if files[detailsFile], err = (&swarmv1.LogDetails{TaskId: t.Id, Details: details}).MarshalVT(); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Finish implements engine.LogStore.
func (s *Store) Finish(taskID string) {
	j := s.get(taskID)
	if j == nil {
		return
	}
	s.watch.drop(j)
	s.finish(j)
}

func (s *Store) finish(j *journal) {
	if err := j.finish(); err != nil {
		s.log.Error("finish log", "task", j.task.Id, "err", err)
		s.retry.add(j, true)
	}
}

// remove removes a task's log.
func (s *Store) remove(id string) {
	s.mu.Lock()
	j := s.journals[id]
	delete(s.journals, id)
	s.retired = slices.DeleteFunc(s.retired, func(r retiree) bool { return r.id == id })
	s.mu.Unlock()
	if j != nil {
		s.watch.drop(j)
		j.close()
	}
	if err := os.RemoveAll(filepath.Join(s.cfg.Dir, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("remove log", "task", id, "err", err)
	}
}
