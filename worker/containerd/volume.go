//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	confs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/disk"
	"swarm/internal/ident"
	"swarm/internal/private"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/containerd/inroot"
	"swarm/worker/engine"
)

// volumes are the host folders of one container's volumes.
type volumes struct {
	mounts    map[int]string    // host paths by the index of the mount; a bind mount without one is of its own source
	anonymous map[string]string // by the image's path
	make      []place           // folders of volumes
	fill      []filling
	staged    []place  // what the container is given by way of its staging folder
	create    []string // sources of bind mounts to be made
}

// place is a folder of a volume, or what lies below it. Containers write below Data, so Sub is looked up by package inroot
// alone. Its fields are part of the container's record.
type place struct {
	// Data is the folder of the volume.
	Data string
	// Sub is a path below it; empty: the volume itself.
	Sub string `json:",omitempty"`
	// Make: Sub is a folder that is made when it is missing.
	Make bool `json:",omitempty"`
}

// open returns a handle of the place.
func (p place) open() (*os.File, error) {
	var f *os.File
	var err error
	if p.Make {
		f, err = inroot.MkdirAll(p.Data, p.Sub)
	} else {
		f, err = inroot.Open(p.Data, p.Sub)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %w", p.Sub, p.Data, err, errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// filling is a folder that takes over the image's files when it is new.
type filling struct {
	place
	target string
}

// maxImageVolumes bounds how many volumes an image may declare: each is a folder and a mount.
const maxImageVolumes = 128

// plan says where the container's volumes are; it makes nothing.
func (r *Runtime) planVolumes(c engine.Container, img *image) (volumes, error) {
	v := volumes{mounts: make(map[int]string), anonymous: make(map[string]string)}
	covered := make(map[string]bool)
	for i, m := range c.Spec().GetMounts() {
		covered[path.Clean(m.GetTarget())] = true
		var err error
		switch m.GetType() {
		case swarmv1.Mount_BIND:
			err = r.planBind(&v, c.Task.GetId(), i, m)
		case swarmv1.Mount_VOLUME:
			err = r.planVolume(&v, c.Task.GetId(), i, m)
		}
		if err != nil {
			return v, fmt.Errorf("mount %s: %w", m.GetTarget(), err)
		}
	}
	for i, target := range slices.Sorted(maps.Keys(img.config.Volumes)) {
		target = path.Clean(path.Join("/", target))
		if covered[target] || target == "/" {
			continue
		}
		p := place{Data: filepath.Join(r.taskDir(c.Task.GetId()), "volumes", "image-"+strconv.Itoa(i))}
		v.anonymous[target] = p.Data
		v.make = append(v.make, p)
		v.fill = append(v.fill, filling{p, target})
	}
	return v, nil
}

func (r *Runtime) planVolume(v *volumes, task string, i int, m *swarmv1.Mount) error {
	dir, err := r.volumeDir(task, i, m)
	if err != nil {
		return err
	}
	p := place{Data: dir}
	v.mounts[i] = dir
	if sub := path.Clean("/" + m.GetVolumeOptions().GetSubpath()); sub != "/" {
		p.Sub, p.Make = strings.TrimPrefix(sub, "/"), true
		v.stage(r, task, i, p)
	}
	v.make = append(v.make, p)
	if !m.GetVolumeOptions().GetNoCopy() {
		v.fill = append(v.fill, filling{p, m.GetTarget()})
	}
	return nil
}

func (r *Runtime) planBind(v *volumes, task string, i int, m *swarmv1.Mount) error {
	create := m.GetBindOptions().GetCreateMountpoint()
	p, inVolume, err := r.volumeOf(m.GetSource())
	if err != nil {
		return fmt.Errorf("bind source: %w", err)
	}
	if inVolume {
		p.Make = create
		v.stage(r, task, i, p)
		if create {
			v.make = append(v.make, p)
			return nil
		}
		f, err := p.open() // The container is refused before anything is made for it.
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

// stage has the container given a place by way of its staging folder.
func (v *volumes) stage(r *Runtime, task string, mount int, p place) {
	v.mounts[mount] = r.stagedPath(task, len(v.staged))
	v.staged = append(v.staged, p)
}

// maxLinks is how many symbolic links a bind source may lead through, as in the kernel.
const maxLinks = 40

// volumeOf tells whether a path of the host leads into a volume's data, and what it names there. It follows symbolic links
// as far as the volume: up to there root alone writes.
func (r *Runtime) volumeOf(source string) (place, bool, error) {
	root, err := filepath.EvalSymlinks(r.volumesRoot())
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, false, nil
	}
	if err != nil {
		return place{}, false, err
	}
	at, rest := "/", strings.Split(filepath.Clean(source), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, name)
		if filepath.Dir(filepath.Dir(next)) == root && filepath.Base(next) == dataFolder {
			sub := path.Clean("/" + path.Join(rest...))
			return place{Data: next, Sub: strings.TrimPrefix(sub, "/")}, sub != "/", nil
		}
		target, err := os.Readlink(next)
		if err != nil { // It is no link, or is not there.
			at = next
			continue
		}
		if links++; links > maxLinks {
			return place{}, false, fmt.Errorf("%s: too many symbolic links: %w", source, errdefs.ErrInvalidArgument)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(filepath.Clean(target), "/"), rest...)
	}
	return place{}, false, nil
}

// dataFolder is the folder of a named volume that containers see.
const dataFolder = "_data"

func (r *Runtime) volumesRoot() string { return filepath.Join(r.cfg.StateDir, "volumes") }

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
	return filepath.Join(r.volumesRoot(), m.GetSource(), dataFolder), nil
}

// makeVolumes makes what is missing. An empty volume takes over what the image has in its place, as in Docker.
func (r *Runtime) makeVolumes(ctx context.Context, v volumes, rootfs []mount.Mount) error {
	for _, dir := range v.create {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("bind source: %w", err)
		}
	}
	for _, p := range v.make {
		if err := makePlace(p); err != nil {
			return fmt.Errorf("volume: %w", err)
		}
	}
	var empty []filling
	for _, f := range v.fill {
		is, err := f.empty()
		if err != nil {
			return fmt.Errorf("volume: %w", err)
		}
		if is {
			empty = append(empty, f)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	return mount.WithReadonlyTempMount(ctx, rootfs, func(root string) error {
		// An image of a few bytes may declare volumes in volumes, each with a copy of what the next has.
		return disk.WhileRoom(ctx, r.images.room, func(ctx context.Context) error {
			for _, f := range empty {
				if err := f.copyUp(ctx, root); err != nil {
					return fmt.Errorf("volume at %s: copy of the image's files: %w", f.target, err)
				}
			}
			return nil
		})
	})
}

// makePlace makes a place of a volume. The folder above the volume's data is for root alone: what containers leave in their
// data may have any mode.
func makePlace(p place) error {
	if err := private.Folder(filepath.Dir(p.Data)); err != nil {
		return err
	}
	if err := os.Mkdir(p.Data, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if p.Sub == "" {
		return nil
	}
	f, err := p.open()
	if err != nil {
		return err
	}
	return f.Close()
}

// folder opens the place for reading.
func (p place) folder() (*os.File, error) {
	return inroot.MkdirAll(p.Data, p.Sub)
}

// empty looks at one entry: a container may have made millions.
func (p place) empty() (bool, error) {
	dir, err := p.folder()
	if err != nil {
		return false, err
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// fillPrefix begins the names of folders in which copies are made, beside a volume's data.
const fillPrefix = ".fill-"

// copyUp copies what the image, whose tree is at root, has in the volume's place. Containers that have the volume already
// may write to it meanwhile: so the copy is made beside it, and then each entry is moved. An entry that is there stays.
func (f filling) copyUp(ctx context.Context, root string) (err error) {
	source, err := inroot.Open(root, f.target)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil || !info.IsDir() {
		return err
	}
	beside, err := os.MkdirTemp(filepath.Dir(f.Data), fillPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.RemoveAll(context.WithoutCancel(ctx), beside)) }()
	made := filepath.Join(beside, "copy")
	// Whoever stops the task ends the copy: what it is made in is not there any more.
	stop := context.AfterFunc(ctx, func() { _ = os.Rename(made, filepath.Join(beside, "stopped")) })
	defer stop()
	// The dot follows the handle's link for everything that looks at the folder itself.
	if err := confs.CopyDir(made, inroot.Path(source)+"/."); err != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.take(made)
}

// take moves the entries of a folder into the volume, and gives the volume the folder's owner and mode.
func (f filling) take(made string) error {
	from, err := os.Open(made)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := f.folder()
	if err != nil {
		return err
	}
	defer to.Close()
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("%s is on another file system than the folder above it: mount the volume with volume-nocopy: %w", f.Data, errdefs.ErrInvalidArgument)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("move %s: %w", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fchown(int(to.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(int(to.Fd()), st.Mode&0o7777)
}
