//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	confs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
)

// volumes are the host folders of one container's volumes.
type volumes struct {
	mounts    map[int]string    // by the index of the mount
	anonymous map[string]string // by the image's path
	fill      []filling
	create    []string // sources of bind mounts to be made
}

// filling is a folder that takes over the image's files when it is new.
type filling struct{ dir, target string }

// plan says where the container's volumes are; it makes nothing.
func (r *Runtime) planVolumes(c worker.Container, img *image) (volumes, error) {
	v := volumes{mounts: make(map[int]string), anonymous: make(map[string]string)}
	covered := make(map[string]bool)
	for i, m := range c.Spec().GetMounts() {
		covered[path.Clean(m.GetTarget())] = true
		if m.GetType() == swarmv1.Mount_BIND && m.GetBindOptions().GetCreateMountpoint() {
			v.create = append(v.create, m.GetSource())
		} else if m.GetType() == swarmv1.Mount_BIND {
			if _, err := os.Stat(m.GetSource()); err != nil {
				return v, fmt.Errorf("mount %s: bind source on this node: %w: %w", m.GetTarget(), err, errdefs.ErrInvalidArgument)
			}
		}
		if m.GetType() != swarmv1.Mount_VOLUME {
			continue
		}
		dir, err := r.volumeDir(c.Task.GetId(), i, m)
		if err != nil {
			return v, fmt.Errorf("mount %s: %w", m.GetTarget(), err)
		}
		v.mounts[i] = dir
		if sub := m.GetVolumeOptions().GetSubpath(); sub != "" {
			if v.mounts[i], err = confs.RootPath(dir, sub); err != nil {
				return v, fmt.Errorf("mount %s: subpath %q: %w: %w", m.GetTarget(), sub, err, errdefs.ErrInvalidArgument)
			}
		}
		if !m.GetVolumeOptions().GetNoCopy() {
			v.fill = append(v.fill, filling{v.mounts[i], m.GetTarget()})
		}
	}
	for i, target := range slices.Sorted(maps.Keys(img.config.Volumes)) {
		target = path.Clean(path.Join("/", target))
		if covered[target] || target == "/" {
			continue
		}
		dir := filepath.Join(r.taskDir(c.Task.GetId()), "volumes", "image-"+strconv.Itoa(i))
		v.anonymous[target] = dir
		v.fill = append(v.fill, filling{dir, target})
	}
	return v, nil
}

// volumeDir is the folder of a volume: by name among the node's, without a name the task's own.
func (r *Runtime) volumeDir(task string, i int, m *swarmv1.Mount) (string, error) {
	driver := m.GetVolumeOptions().GetDriverConfig()
	if driver.GetName() != "" && driver.GetName() != "local" || len(driver.GetOptions()) > 0 {
		return "", fmt.Errorf("volume driver %q with %d options: this node has only local, without options: %w",
			driver.GetName(), len(driver.GetOptions()), errdefs.ErrInvalidArgument)
	}
	if m.GetSource() == "" {
		return filepath.Join(r.taskDir(task), "volumes", strconv.Itoa(i)), nil
	}
	if err := ident.CheckVolumeName(m.GetSource()); err != nil { // It may have come from a template.
		return "", err
	}
	return filepath.Join(r.cfg.StateDir, "volumes", m.GetSource(), "_data"), nil
}

// makeVolumes makes what is missing. An empty volume takes over what the image has in its place, as in Docker.
func (r *Runtime) makeVolumes(ctx context.Context, v volumes, rootfs []mount.Mount) error {
	for _, dir := range slices.Concat(slices.Collect(maps.Values(v.mounts)), slices.Collect(maps.Values(v.anonymous)), v.create) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
	}
	var empty []filling
	for _, f := range v.fill {
		entries, err := os.ReadDir(f.dir)
		if err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if len(entries) == 0 {
			empty = append(empty, f)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	return mount.WithReadonlyTempMount(ctx, rootfs, func(root string) error {
		for _, f := range empty {
			if err := copyUp(f.dir, root, f.target); err != nil {
				return fmt.Errorf("volume at %s: copy of the image's files: %w", f.target, err)
			}
		}
		return nil
	})
}

func copyUp(dir, root, target string) error {
	source, err := confs.RootPath(root, target)
	if err != nil {
		return err
	}
	st, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	return confs.CopyDir(dir, source)
}
