//go:build linux

package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"swarm/containerd/inroot"
	"swarm/internal/private"
	"swarm/internal/tree"
)

// A part of a volume reaches its container by way of a staging folder of the task. The daemon opens the part, so that it
// lies in the volume whatever containers do there meanwhile, and mounts what it has opened in the staging folder, where
// nobody else writes. runc is given that path. Once the container is set up it has a mount of its own, and the staging
// folder goes.

// stagedAnnotation is the annotation of a container's spec that has its staged places, as JSON: who starts the container
// need not be the process that prepared it.
const stagedAnnotation = "io.swarm.staged"

func (r *Runtime) stagedRoot() string { return filepath.Join(r.cfg.RunDir, "staged") }

func (r *Runtime) stagedDir(task string) string { return filepath.Join(r.stagedRoot(), task) }

func (r *Runtime) stagedPath(task string, i int) string {
	return filepath.Join(r.stagedDir(task), strconv.Itoa(i))
}

// annotate writes a container's staged places into the annotations of its spec.
func annotate(annotations map[string]string, staged []place) error {
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

// stagedOf reads what annotate wrote.
func stagedOf(spec *specs.Spec) (staged []place, err error) {
	text := spec.Annotations[stagedAnnotation]
	if text == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &staged); err != nil {
		return nil, fmt.Errorf("decode its parts of volumes: %w", err)
	}
	return staged, nil
}

// stage mounts places of volumes in the task's staging folder, anew if it has one.
func (r *Runtime) stage(task string, places []place) error {
	if len(places) == 0 {
		return nil
	}
	if err := r.unstage(task); err != nil {
		return err
	}
	if err := private.Folder(r.stagedRoot()); err != nil {
		return err
	}
	if err := os.Mkdir(r.stagedDir(task), private.Mode); err != nil {
		return err
	}
	for i, p := range places {
		if err := stageOne(p, r.stagedPath(task, i)); err != nil {
			return errors.Join(fmt.Errorf("part of a volume: %w", err), r.unstage(task))
		}
	}
	return nil
}

func stageOne(p place, target string) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return inroot.Bind(f, target)
}

// oldStage begins the names of staging folders that are on their way out.
const oldStage = ".old-"

// unstage removes a task's staging folder. It is renamed first, because a runc that is late must find all of it or nothing:
// an empty folder would become the container's volume.
func (r *Runtime) unstage(task string) error {
	dir := r.stagedDir(task)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := os.MkdirTemp(r.stagedRoot(), oldStage)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(old, task)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(old))
	}
	return removeStage(old)
}

// removeStage removes what unstage has renamed. It never removes below a mount.
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

// folders lists the folders in a folder; none when it is not there.
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

// Recover is for a daemon that starts: it removes what a daemon that was killed has left half done, and closes the folders
// above containers' data to the host's other users.
func (r *Runtime) Recover() error {
	return errors.Join(r.recoverStages(), r.recoverFills(), r.closeFolders())
}

// recoverStages removes all staging folders. A container that is set up has mounts of its own; one that its shim is setting
// up this moment is not, and is asked for again.
func (r *Runtime) recoverStages() error {
	var all error
	for _, dir := range folders(r.stagedRoot()) {
		if name := filepath.Base(dir); strings.HasPrefix(name, oldStage) {
			all = errors.Join(all, removeStage(dir))
		} else {
			all = errors.Join(all, r.unstage(name))
		}
	}
	return all
}

// aboveData lists the folders right above volumes' data.
func (r *Runtime) aboveData() []string {
	dirs := folders(r.volumesRoot())
	for _, task := range folders(r.tasksRoot()) {
		dirs = append(dirs, filepath.Join(task, "volumes"))
	}
	return dirs
}

// recoverFills removes copies of images' files that were not finished.
func (r *Runtime) recoverFills() error {
	var all error
	for _, dir := range r.aboveData() {
		for _, left := range folders(dir) {
			if strings.HasPrefix(filepath.Base(left), fillPrefix) {
				all = errors.Join(all, tree.RemoveAll(context.Background(), left))
			}
		}
	}
	return all
}

// closeFolders makes every folder above containers' data one for root alone.
func (r *Runtime) closeFolders() error {
	var all error
	above := slices.Concat([]string{r.cfg.StateDir, r.volumesRoot(), r.tasksRoot()}, folders(r.tasksRoot()), r.aboveData())
	for _, dir := range above {
		if err := private.Close(dir); !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
