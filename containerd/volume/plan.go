//go:build linux

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Plan says where the volumes of one container are on the host.
type Plan struct {
	// Mounts has host paths by the index of the mount. A bind mount that is missing here is mounted
	// from its own source.
	Mounts map[int]string
	// Anonymous has host paths by the target of volumes that the image declares.
	Anonymous map[string]string
	// Staged lists the places that Stage must mount before the container is started.
	Staged []Place

	named  []Named // volumes with a name, each once
	make   []Place // folders of volumes
	fill   []filling
	create []string // sources of bind mounts that are to be made
}

// MaxDeclared is how many volumes an image may declare. Each costs a folder and a mount.
const MaxDeclared = 128

// Plan decides where the volumes of a task's container are: those of its mounts, and those at the
// paths that the image declares. It makes nothing. Errors name the mount; ErrInvalidArgument is for
// a source that does not exist, a driver that this node does not have, and a path that leaves a
// volume.
func (s *Store) Plan(task string, mounts []*swarmv1.Mount, declared map[string]struct{}) (Plan, error) {
	v := Plan{Mounts: make(map[int]string), Anonymous: make(map[string]string)}
	covered := make(map[string]bool)
	for i, m := range mounts {
		covered[path.Clean(m.GetTarget())] = true
		var err error
		switch m.GetType() {
		case swarmv1.Mount_BIND:
			err = s.planBind(&v, task, i, m)
		case swarmv1.Mount_VOLUME:
			err = s.planVolume(&v, task, i, m)
		}
		if err != nil {
			return v, fmt.Errorf("mount %s: %w", m.GetTarget(), err)
		}
	}
	for i, target := range slices.Sorted(maps.Keys(declared)) {
		target = path.Clean(path.Join("/", target))
		if covered[target] || target == "/" {
			continue
		}
		p := Place{Data: filepath.Join(s.taskDir(task), "image-"+strconv.Itoa(i))}
		v.Anonymous[target] = p.Data
		v.make = append(v.make, p)
		v.fill = append(v.fill, filling{p, target})
	}
	return v, nil
}

func (s *Store) planVolume(v *Plan, task string, i int, m *swarmv1.Mount) error {
	dir, err := s.volumeDir(task, i, m)
	if err != nil {
		return err
	}
	p := Place{Data: dir}
	v.Mounts[i] = dir
	if sub := path.Clean("/" + m.GetVolumeOptions().GetSubpath()); sub != "/" {
		p.Sub, p.Make = strings.TrimPrefix(sub, "/"), true
		s.planStaged(v, task, i, p)
	}
	v.make = append(v.make, p)
	driver := m.GetVolumeOptions().GetDriverConfig()
	if m.GetSource() != "" {
		if driver, err = s.planNamed(v, m); err != nil {
			return err
		}
	}
	// A file system that is mounted for the volume receives no copy, because the copy is made
	// beside the volume.
	if !m.GetVolumeOptions().GetNoCopy() && len(driver.GetOptions()) == 0 {
		v.fill = append(v.fill, filling{p, m.GetTarget()})
	}
	return nil
}

func (s *Store) planBind(v *Plan, task string, i int, m *swarmv1.Mount) error {
	create := m.GetBindOptions().GetCreateMountpoint()
	p, inVolume, err := s.volumeOf(m.GetSource())
	if err != nil {
		return fmt.Errorf("bind source: %w", err)
	}
	if inVolume {
		p.Make = create
		s.planStaged(v, task, i, p)
		if create {
			v.make = append(v.make, p)
			return nil
		}
		f, err := p.open() // Refuse the container before anything is made for it.
		if err != nil {
			return fmt.Errorf("bind source on this node: %w", err)
		}
		return f.Close()
	}
	if create {
		v.create = append(v.create, m.GetSource())
		return nil
	}
	if _, err := os.Stat(m.GetSource()); err != nil {
		return fmt.Errorf("bind source on this node: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// planStaged adds a place that reaches the container through its staging folder.
func (s *Store) planStaged(v *Plan, task string, mount int, p Place) {
	v.Mounts[mount] = s.stagedPath(task, len(v.Staged))
	v.Staged = append(v.Staged, p)
}

// maxLinks is how many symbolic links a bind source may lead through, as in the kernel.
const maxLinks = 40

// volumeOf reports whether a path of the host leads to a file or folder inside the data of a named
// volume, and returns that place. It follows symbolic links only outside the data, where only root
// writes.
func (s *Store) volumeOf(source string) (Place, bool, error) {
	root, err := filepath.EvalSymlinks(s.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Place{}, false, nil
	}
	if err != nil {
		return Place{}, false, err
	}
	at, rest := "/", strings.Split(filepath.Clean(source), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, name)
		if filepath.Dir(filepath.Dir(next)) == root && filepath.Base(next) == dataFolder {
			sub := path.Clean("/" + path.Join(rest...))
			return Place{Data: next, Sub: strings.TrimPrefix(sub, "/")}, sub != "/", nil
		}
		target, err := os.Readlink(next)
		if err != nil { // It is not a link, or does not exist.
			at = next
			continue
		}
		links++
		if links > maxLinks {
			return Place{}, false, fmt.Errorf("%s: too many symbolic links: %w", source, errdefs.ErrInvalidArgument)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
	}
	return Place{}, false, nil
}

// volumeDir returns the data folder of a volume. A volume without a name belongs to the task.
func (s *Store) volumeDir(task string, i int, m *swarmv1.Mount) (string, error) {
	driver := m.GetVolumeOptions().GetDriverConfig()
	if err := spec.CheckVolumeDriver("the volume", driver); err != nil {
		return "", err
	}
	if m.GetSource() == "" {
		if len(driver.GetOptions()) > 0 {
			return "", fmt.Errorf("driver options are for volumes with a name: add source=NAME: %w", errdefs.ErrInvalidArgument)
		}
		return filepath.Join(s.taskDir(task), strconv.Itoa(i)), nil
	}
	if err := ident.CheckVolumeName(m.GetSource()); err != nil { // A template may have produced it.
		return "", err
	}
	return s.dataDir(m.GetSource()), nil
}
