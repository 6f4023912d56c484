//go:build linux

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
	"swarm/internal/private"
	swarmv1 "swarm/proto/swarm/v1"
)

// Named is a volume with a name, as its file volume.json has it.
type Named struct {
	Name    string
	Options map[string]string `json:",omitempty"` // of the driver local
	Labels  map[string]string `json:",omitempty"`
	Created time.Time
	Move    string `json:",omitempty"` // the move that has brought the volume to this node
}

const (
	// infoFile says how a volume was made. A volume of an older build has none.
	infoFile = "volume.json"
	// usersFolder has an empty file for each task that mounts the volume.
	usersFolder = "users"
	// namesFile, in the folder of a task, lists the volumes with a name that the task mounts.
	namesFile = "named-volumes.json"
)

func (s *Store) dir(name string) string      { return filepath.Join(s.cfg.Dir, name) }
func (s *Store) dataDir(name string) string  { return filepath.Join(s.dir(name), dataFolder) }
func (s *Store) usersDir(name string) string { return filepath.Join(s.dir(name), usersFolder) }

func (s *Store) namesPath(task string) string {
	return filepath.Join(s.cfg.TasksDir, task, namesFile)
}

// planNamed adds the volume of a mount to the plan. It returns the volume's driver: that with which
// the volume was made, or that of the mount for a volume that does not exist yet. It returns
// ErrInvalidArgument if the mount asks for other options than those of the volume.
func (s *Store) planNamed(v *Plan, m *swarmv1.Mount) (*swarmv1.Driver, error) {
	options := m.GetVolumeOptions().GetDriverConfig().GetOptions()
	had, err := s.load(m.GetSource())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		had = Named{Name: m.GetSource(), Options: options, Labels: m.GetVolumeOptions().GetLabels()}
	case err != nil:
		return nil, err
	case len(options) > 0 && !maps.Equal(options, had.Options):
		return nil, errOtherOptions(had.Name)
	}
	if !slices.ContainsFunc(v.named, func(o Named) bool { return o.Name == had.Name }) {
		v.named = append(v.named, had)
	}
	return &swarmv1.Driver{Options: had.Options}, nil
}

func errOtherOptions(name string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
		"volume %s exists on this node with other driver options: remove it first, or leave the options out", name))
}

// load reads how a volume was made. It returns fs.ErrNotExist if there is no such volume.
func (s *Store) load(name string) (Named, error) {
	data, err := os.ReadFile(filepath.Join(s.dir(name), infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		info, err := os.Lstat(s.dataDir(name))
		if err != nil {
			return Named{}, err
		}
		return Named{Name: name, Created: info.ModTime()}, nil
	}
	if err != nil {
		return Named{}, err
	}
	n := Named{}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("volume %s: file %s: %w", name, infoFile, err)
	}
	n.Name = name
	return n, nil
}

// create makes a volume that does not exist. The caller holds its lock.
func (s *Store) create(n Named) error {
	if err := private.Folder(s.dir(n.Name)); err != nil {
		return err
	}
	n.Created = time.Now().UTC().Truncate(time.Second)
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	// The file is first: a volume with a data folder and without options would be another volume.
	if err := durable.WriteFile(filepath.Join(s.dir(n.Name), infoFile), data, 0o600); err != nil {
		return err
	}
	if err := makePlace(Place{Data: s.dataDir(n.Name)}); err != nil {
		return err
	}
	s.noteChange()
	return nil
}

// use makes the volumes, notes that the task uses them, and mounts their file systems.
func (s *Store) use(task string, volumes []Named) error {
	if len(volumes) == 0 {
		return nil
	}
	names := make([]string, len(volumes))
	for i, n := range volumes {
		names[i] = n.Name
	}
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	if err := private.Folder(filepath.Dir(s.namesPath(task))); err != nil {
		return err
	}
	// Release reads this list, so it must be complete before a volume has the task as a user.
	if err := os.WriteFile(s.namesPath(task), data, 0o600); err != nil {
		return err
	}
	for _, n := range volumes {
		if err := s.useOne(task, n); err != nil {
			return fmt.Errorf("volume %s: %w", n.Name, err)
		}
	}
	return nil
}

func (s *Store) useOne(task string, n Named) error {
	defer s.locks.lock(n.Name)()
	had, err := s.load(n.Name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.create(n); err != nil {
			return err
		}
		had = n
	} else if err != nil {
		return err
	}
	if err := private.Folder(s.usersDir(n.Name)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.usersDir(n.Name), task), nil, 0o600); err != nil {
		return err
	}
	return s.mountVolume(had)
}

// Mount mounts the file systems of the volumes that a prepared task uses, if they are not mounted:
// the host was restarted after the task was prepared.
func (s *Store) Mount(task string) error {
	names, err := s.namesOf(task)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.mountNamed(name); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) mountNamed(name string) error {
	defer s.locks.lock(name)()
	n, err := s.load(name)
	if err != nil {
		return err
	}
	return s.mountVolume(n)
}

// namesOf returns the volumes with a name that a task uses.
func (s *Store) namesOf(task string) (names []string, err error) {
	data, err := os.ReadFile(s.namesPath(task))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data) == 0 { // A power cut has lost the content. The marks of the task stay.
		return nil, nil
	}
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, fmt.Errorf("file %s: %w", s.namesPath(task), err)
	}
	return names, nil
}

// Release notes that a task does not use its volumes with a name any more, and unmounts the file
// systems that no task uses. It may be repeated.
func (s *Store) Release(task string) error {
	names, err := s.namesOf(task)
	if err != nil || len(names) == 0 {
		return err
	}
	for _, name := range names {
		if err := s.releaseOne(task, name); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return os.Remove(s.namesPath(task))
}

func (s *Store) releaseOne(task, name string) error {
	defer s.locks.lock(name)()
	if err := os.Remove(filepath.Join(s.usersDir(name), task)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.unmountUnused(name)
}

// users returns the tasks that use a volume. It forgets those that have no folder any more, which
// were removed by force.
func (s *Store) users(name string) ([]string, error) {
	entries, err := os.ReadDir(s.usersDir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tasks []string
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(s.cfg.TasksDir, e.Name())); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(filepath.Join(s.usersDir(name), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		tasks = append(tasks, e.Name())
	}
	return tasks, nil
}
