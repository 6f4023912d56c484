// Package sysctl raises kernel limits that all containers of a host share and whose default a
// single container can use up. The kernel counts these resources for each user, and root in a
// container is the same user as root of the host, so the host would also have none left.
//
// The package raises limits and never lowers them. It saves the former values in a file of the run
// folder, so that `swarm uninstall` can restore them. It runs no goroutine.
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

// Limit is a kernel setting.
type Limit struct {
	Key string
	// Least is the value to which the setting is raised.
	Least int64
	// Why says what fails once the limit is reached.
	Why string
}

// Record returns the file in the run folder of the daemon in which Raise saves the former values.
func Record(runDir string) string { return filepath.Join(runDir, "sysctls") }

// Limits returns the limits that Raise raises. A higher limit costs nothing until it is used.
func Limits() []Limit {
	const (
		neighbours = "the host and its containers reach no further neighbour"
		inotify    = "programs of the host and of containers watch no further file"
	)
	return []Limit{
		// The neighbours of all network namespaces count. A container without raw sockets cannot
		// look for many neighbours in its own namespace. For packets that a container sends
		// elsewhere, the host looks, at most as fast as the rules of package bridge allow.
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

// root is the folder in which the kernel shows its settings.
const root = "/proc/sys"

// Raise raises the limits that are lower, and saves their former values in the file record. It
// skips limits that this kernel or this network namespace does not have. The error names the limits
// that could not be raised; the others are raised.
func Raise(record string) error { return raise(root, record) }

// Restore restores the values that Raise has changed and that nobody has changed since. It deletes
// the file record.
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
		return nil, fmt.Errorf("read the former values of the kernel limits: %w", err)
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
