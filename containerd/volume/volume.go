//go:build linux

// Package volume owns the volumes of one node: the folders of named volumes, the folders of volumes
// without a name, which belong to a single task, and the staging folders through which a part of a
// volume reaches its container.
//
// Containers write below a volume's data folder. Only package inroot looks up paths there, so that
// no container can lead the daemon, or another container, out of the volume. The package returns
// ErrInvalidArgument for volume drivers other than local, for bind sources that do not exist, and
// for paths that leave a volume.
//
// A volume with a name has a folder with its data (_data), a file that says how it was made
// (volume.json), and a folder with a file for each task that mounts it (users). The driver local,
// with options, mounts a file system on the data folder when the first task needs it (local.go). A
// driver of another kind, such as a plugin, would take the place of mountVolume and unmountVolume.
//
// Package containerd calls it: Plan and Make when a container is prepared, Mount, Stage and Unstage
// when it is started, Release when it is removed, Recover when the daemon starts. It runs no
// goroutine. The methods of a Store are safe for concurrent use, but only one call at a time may
// stage or unstage a given task.
package volume

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"swarm/internal/broadcast"
	"swarm/internal/private"
	"swarm/internal/tree"
)

// Config names the folders. All of them are absolute paths.
type Config struct {
	// Dir has a folder for each named volume. It is persistent.
	Dir string
	// TasksDir has a folder for each task, whose folder "volumes" has the task's own volumes. It is
	// persistent. Package containerd removes the folder of a task.
	TasksDir string
	// StagingDir has the staging folder of each task that is being started. It is lost at a reboot.
	StagingDir string
}

// Deps are live objects.
type Deps struct {
	Log *slog.Logger
	// Room returns an error when the disk has no room for a number of bytes, or for any at all when
	// bytes is 0. Nil: there is always room.
	Room func(bytes int64) error
}

// Store is the volumes of this node.
type Store struct {
	cfg  Config
	log  *slog.Logger
	room func(bytes int64) error

	// locks has the lock of each volume, which guards its folder, its users and its mount. A lock
	// is held until a file server answers, so nothing that must not wait takes one.
	locks locks

	mu       sync.Mutex          // guards measured and changed
	measured map[string]measured // the size of each volume, as reported
	changed  broadcast.Signal    // sent when the result of List changes
}

// locks is a lock for each name.
type locks struct {
	mu   sync.Mutex             // guards held
	held map[string]*sync.Mutex // the locks that were ever taken; a node has few names
}

// lock takes the lock of a name, and returns the function that releases it.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[string]*sync.Mutex)
	}
	m := l.held[name]
	if m == nil {
		m = new(sync.Mutex)
		l.held[name] = m
	}
	l.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// noteChange tells the watchers of Changed that the result of List has changed.
func (s *Store) noteChange() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// New returns a store. It makes no folder.
func New(cfg Config, deps Deps) *Store {
	return &Store{cfg: cfg, log: deps.Log, room: deps.Room, measured: make(map[string]measured)}
}

// dataFolder is the folder of a named volume that containers see.
const dataFolder = "_data"

// taskDir is the folder of the volumes without a name of a task.
func (s *Store) taskDir(task string) string {
	return filepath.Join(s.cfg.TasksDir, task, "volumes")
}

// Recover removes what a daemon that was killed has left unfinished: staging folders and copies of
// images' files. It also gives the folders above the volumes' data a mode for root alone. It is
// called when the daemon starts, before any other method.
func (s *Store) Recover() error {
	return errors.Join(s.recoverStages(), s.recoverFills(), s.recoverRemovals(), s.closeFolders())
}

// aboveData lists the folders that directly contain volumes' data.
func (s *Store) aboveData() []string {
	dirs := folders(s.cfg.Dir)
	for _, task := range folders(s.cfg.TasksDir) {
		dirs = append(dirs, filepath.Join(task, "volumes"))
	}
	return dirs
}

// recoverFills removes unfinished copies of images' files.
func (s *Store) recoverFills() error {
	var all error
	for _, dir := range s.aboveData() {
		for _, left := range folders(dir) {
			if strings.HasPrefix(filepath.Base(left), fillPrefix) {
				all = errors.Join(all, tree.RemoveAll(context.Background(), left))
			}
		}
	}
	return all
}

// closeFolders gives every folder above containers' data the mode 0700.
func (s *Store) closeFolders() error {
	var all error
	above := slices.Concat([]string{s.cfg.Dir, s.cfg.TasksDir}, folders(s.cfg.TasksDir), s.aboveData())
	for _, dir := range above {
		if err := private.Restrict(dir); !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// folders lists the folders in a folder. It returns none when the folder does not exist.
func folders(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var found []string
	for _, e := range entries {
		if e.IsDir() {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}

// TaskSize returns the size in bytes of a task's volumes without a name. With an error, it is the
// size of what was counted.
func (s *Store) TaskSize(ctx context.Context, task string) (int64, error) {
	size, err := tree.Size(ctx, s.taskDir(task))
	if errors.Is(err, fs.ErrNotExist) {
		return size, nil
	}
	return size, err
}
