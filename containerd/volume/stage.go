//go:build linux

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"swarm/containerd/inroot"
	"swarm/internal/private"
)

// A part of a volume reaches its container through a staging folder of the task. The daemon opens
// the part, which proves that it lies in the volume whatever containers do there at the same time,
// and mounts the opened file in the staging folder, where only root writes. runc is given the path
// in the staging folder. Once the container is set up it has its own mount, and the staging folder
// is removed.

// stagedAnnotation is the annotation of a container's spec that holds its staged places as JSON. It
// is stored because a later process of the daemon may start the container.
const stagedAnnotation = "io.swarm.staged"

func (s *Store) stagedDir(task string) string { return filepath.Join(s.cfg.StagingDir, task) }

func (s *Store) stagedPath(task string, i int) string {
	return filepath.Join(s.stagedDir(task), strconv.Itoa(i))
}

// Annotate writes a container's staged places into the annotations of its spec.
func Annotate(annotations map[string]string, staged []Place) error {
	if len(staged) == 0 {
		return nil
	}
	text, err := json.Marshal(staged)
	if err != nil {
		return fmt.Errorf("encode its parts of volumes: %w", err)
	}
	annotations[stagedAnnotation] = string(text)
	return nil
}

// Staged reads the places that Annotate has written into the annotations of a container's spec.
func Staged(annotations map[string]string) (staged []Place, err error) {
	text := annotations[stagedAnnotation]
	if text == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &staged); err != nil {
		return nil, fmt.Errorf("decode its parts of volumes: %w", err)
	}
	return staged, nil
}

// Stage mounts places of volumes in the task's staging folder, in the order in which Plan listed
// them. It removes an older staging folder of the task first. After an error there is no staging
// folder.
func (s *Store) Stage(task string, places []Place) error {
	if len(places) == 0 {
		return nil
	}
	if err := s.Unstage(task); err != nil {
		return err
	}
	if err := private.Folder(s.cfg.StagingDir); err != nil {
		return err
	}
	if err := os.Mkdir(s.stagedDir(task), private.Mode); err != nil {
		return err
	}
	for i, p := range places {
		if err := stageOne(p, s.stagedPath(task, i)); err != nil {
			return errors.Join(fmt.Errorf("part of a volume: %w", err), s.Unstage(task))
		}
	}
	return nil
}

func stageOne(p Place, target string) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return inroot.Bind(f, target)
}

// oldStage begins the names of staging folders that are being removed.
const oldStage = ".old-"

// Unstage removes a task's staging folder, if there is one. It renames the folder first, so that a
// runc that still sets the container up finds either the whole folder or none. In a folder that is
// half removed, runc would mount an empty folder as the container's volume.
func (s *Store) Unstage(task string) error {
	dir := s.stagedDir(task)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := os.MkdirTemp(s.cfg.StagingDir, oldStage)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(old, task)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(old))
	}
	return removeStage(old)
}

// removeStage removes a folder that Unstage has renamed. It never removes anything below a mount.
func removeStage(old string) error {
	dirs := folders(old)
	for _, dir := range dirs {
		staged, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("staging folder: %w", err)
		}
		for _, s := range staged {
			if err := inroot.Unbind(filepath.Join(dir, s.Name())); err != nil {
				return fmt.Errorf("staging folder: %w", err)
			}
		}
	}
	for _, dir := range append(dirs, old) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("staging folder: %w", err)
		}
	}
	return nil
}

// recoverStages removes all staging folders. Containers that are set up have their own mounts. A
// container that a shim is still setting up fails, and the worker starts it again.
func (s *Store) recoverStages() error {
	var all error
	for _, dir := range folders(s.cfg.StagingDir) {
		if name := filepath.Base(dir); strings.HasPrefix(name, oldStage) {
			all = errors.Join(all, removeStage(dir))
		} else {
			all = errors.Join(all, s.Unstage(name))
		}
	}
	return all
}
