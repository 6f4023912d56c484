// Package exit owns the exit records of containers: one small file for each container that has
// ended. The container's shim writes the record before it reports the exit, so that an exit is not
// lost while containerd or the daemon is down.
//
// Shims write records. The daemon reads them, and removes each record with its container. A record
// is the file <dir>/<namespace>/<container>.json. It is replaced atomically. Its folder is
// transient: a record survives every process but not a reboot, which ends the container too. The
// package returns ErrInvalidArgument for names that would leave the folder. It runs no goroutine.
package exit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Record says how the first process of a container ended.
type Record struct {
	// Status is the exit code, or 128 plus the signal that ended the process.
	Status uint32 `json:"exit_status"`
	// ExitedAt is when the shim reaped the process.
	ExitedAt time.Time `json:"exited_at"`
	// OOM says that the kernel killed at least one process of the container
	// because its memory limit was reached.
	OOM bool `json:"oom,omitempty"`
	// Fenced says that the shim killed the container because its lease had run out.
	Fenced bool `json:"fenced,omitempty"`
	// ShimLost says that the shim died first. The container was then killed, and Status is that of
	// the kill and not of the process.
	ShimLost bool `json:"shim_lost,omitempty"`
}

// Dir is the path of a folder of records: layout.Exits of a containerd state folder.
type Dir string

// Write writes the record of a container and replaces an older one. ErrInvalidArgument: a name
// would leave the folder.
func (d Dir) Write(namespace, container string, r Record) error {
	path, err := d.path(namespace, container)
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode exit record of %s: %w", container, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write exit record of %s: %w", container, err)
	}
	// The file is replaced by a rename but not synced, and therefore not written by package
	// durable: the record must survive every process but not a reboot, which ends its container
	// too.
	f, err := os.CreateTemp(filepath.Dir(path), ".exit-*")
	if err != nil {
		return fmt.Errorf("write exit record of %s: %w", container, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write exit record of %s: %w", container, err), os.Remove(f.Name()))
	}
	return nil
}

// Read returns a container's record. ErrNotFound: there is none.
func (d Dir) Read(namespace, container string) (Record, error) {
	path, err := d.path(namespace, container)
	if err != nil {
		return Record{}, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("exit record of %s: %w", container, errdefs.ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("exit record of %s: %w", container, err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("exit record of %s in %s: %w", container, path, err)
	}
	return r, nil
}

// Remove removes a container's record, if there is one.
func (d Dir) Remove(namespace, container string) error {
	path, err := d.path(namespace, container)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove exit record of %s: %w", container, err)
	}
	return nil
}

// List returns the containers of a namespace that have a record.
func (d Dir) List(namespace string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(d), namespace))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list exit records: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// path returns the path of a record. ErrInvalidArgument: a name would leave the folder.
func (d Dir) path(namespace, container string) (string, error) {
	for _, name := range []string{namespace, container} {
		if name == "" || name[0] == '.' || strings.ContainsRune(name, '/') {
			return "", fmt.Errorf("exit record: %q is not a file name: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return filepath.Join(string(d), namespace, container+".json"), nil
}
