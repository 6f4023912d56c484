// Package sysctl owns the limits of the kernel that all containers of a host share, and raises
// those whose defaults a single container can use up: root in a container is the host's root, so
// that the kernel counts what both hold together.
//
// It raises a limit and never lowers one. What a limit was before is kept in a file of the run
// folder, so that `swarm uninstall` puts it back. It runs no goroutine.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Limit is a setting of the kernel.
type Limit struct {
	Key string
	// Least is what it is raised to.
	Least int64
	// Why says what fails beyond it.
	Why string
}

// Record returns the file in the daemon's run folder in which Raise notes what the limits were.
func Record(runDir string) string { return filepath.Join(runDir, "sysctls") }

// Limits lists the limits that are raised. They cost nothing until they are used.
func Limits() []Limit {
	const (
		neighbours = "the host and its containers reach no further neighbour"
		inotify    = "programs of the host and of containers watch no further file"
	)
	return []Limit{
		// The neighbours of all network namespaces count. A container without raw sockets is kept from looking for many in its
		// own; for what it sends elsewhere the host looks, at most as fast as rules of package bridge let it.
		{"net.ipv4.neigh.default.gc_thresh1", 8192, neighbours},
		{"net.ipv4.neigh.default.gc_thresh2", 32768, neighbours},
		{"net.ipv4.neigh.default.gc_thresh3", 65536, neighbours},
		{"net.ipv6.neigh.default.gc_thresh1", 8192, neighbours},
		{"net.ipv6.neigh.default.gc_thresh2", 32768, neighbours},
		{"net.ipv6.neigh.default.gc_thresh3", 65536, neighbours},
		{"fs.inotify.max_user_instances", 8192, inotify},
		{"fs.inotify.max_user_watches", 1 << 20, inotify},
		{"fs.aio-max-nr", 1 << 20, "databases open no further file with asynchronous I/O"},
		// A container has at most 256.
		{"kernel.pty.max", 16384, "no further terminal is opened"},
		// A container has at most 4,096 processes unless its service says otherwise.
		{"kernel.pid_max", 4 << 20, "no further process is started"},
	}
}

// root is where the kernel shows its settings.
const root = "/proc/sys"

// Raise raises the limits that are lower, and notes in the file record what they were. Limits that
// this kernel, or this network namespace, does not have are left out. An error names the limits
// that could not be raised; the others are.
func Raise(record string) error { return raise(root, record) }

// Restore puts back what Raise has changed and nobody has changed since. The file record goes.
func Restore(record string) error { return restore(root, record) }

func raise(root, record string) error {
	before, err := read(record)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range Limits() {
		was, err := get(root, l.Key)
		if errors.Is(err, fs.ErrNotExist) || err == nil && was >= l.Least {
			continue
		}
		if err == nil {
			err = set(root, l.Key, l.Least)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("raise %s to %d: %w", l.Key, l.Least, err))
			continue
		}
		if _, ok := before[l.Key]; !ok {
			before[l.Key] = was
		}
	}
	if len(before) > 0 {
		errs = append(errs, write(record, before))
	}
	return errors.Join(errs...)
}

func restore(root, record string) error {
	before, err := read(record)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range Limits() {
		was, ok := before[l.Key]
		if now, err := get(root, l.Key); !ok || err != nil || now != l.Least {
			continue
		}
		errs = append(errs, set(root, l.Key, was))
	}
	if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func path(root, key string) string {
	return filepath.Join(root, strings.ReplaceAll(key, ".", "/"))
}

func get(root, key string) (int64, error) {
	text, err := os.ReadFile(path(root, key))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

func set(root, key string, value int64) error {
	return os.WriteFile(path(root, key), strconv.AppendInt(nil, value, 10), 0o644)
}

func read(record string) (map[string]int64, error) {
	before := map[string]int64{}
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		return nil, fmt.Errorf("limits of the kernel before they were raised: %w", err)
	}
	return before, nil
}

func write(record string, before map[string]int64) error {
	text, err := json.Marshal(before)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(record), 0o700); err != nil {
		return err
	}
	return os.WriteFile(record, text, 0o600)
}
