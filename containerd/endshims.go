//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	shimsocket "github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/layout"
	"swarm/containerd/orphan"
)

// EndShims ends the shims of this node that no container uses, and removes the bundles of
// containers that have no record. It logs what it ends and what it cannot end. It does nothing with
// a containerd of the host, which cares for its shims itself. Call it when the daemon starts,
// because a daemon or containerd that was killed may have left a shim, and after the last container
// was removed. No call of Start may run at the same time.
func (r *Runtime) EndShims(ctx context.Context) {
	if r.cfg.Exits == "" {
		return
	}
	if err := r.endShims(namespaced(ctx)); err != nil {
		r.log.WarnContext(ctx, "shims that no container uses, or their files, remain", "err", err)
	}
}

func (r *Runtime) endShims(ctx context.Context) error {
	// A record is created before its shim, and deleted after it. So what is found before the
	// records are listed, and has no record, belongs to a container that is gone.
	shims, err := orphan.Shims(r.state())
	for _, s := range shims {
		defer s.Close()
	}
	sockets, serr := os.ReadDir(layout.ShimSockets(r.state()))
	bundles, berr := os.ReadDir(r.bundle(""))
	if errors.Is(berr, fs.ErrNotExist) { // There was no container since the host was started.
		berr = nil
	}
	if err := errors.Join(err, serr, berr); err != nil {
		return err
	}
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	known, used := make(map[string]bool), make(map[string]bool)
	for _, c := range records {
		known[c.ID] = true
		address, err := shimsocket.CreateSocketAddress(ctx, layout.ShimSockets(r.state()), r.address(), c.Labels[labelGroup], false)
		if err != nil {
			return err
		}
		used[strings.TrimPrefix(address, "unix://")] = true
	}
	var g errgroup.Group
	for _, s := range shims {
		if !used[s.Socket] {
			r.log.InfoContext(ctx, "ending a shim that no container uses", "pid", s.Pid)
			g.Go(func() error { return s.End(ctx) })
		}
	}
	errs := []error{g.Wait()}
	for _, e := range sockets {
		if p := filepath.Join(layout.ShimSockets(r.state()), e.Name()); !used[p] {
			errs = append(errs, ignoreNotExist(os.Remove(p)))
		}
	}
	for _, e := range bundles {
		// containerd renames a bundle to a hidden name before it deletes it.
		if id, hidden := strings.CutPrefix(e.Name(), "."); hidden || !known[id] {
			errs = append(errs, r.removeBundle(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// state returns the state folder of swarm's own containerd.
func (r *Runtime) state() string { return filepath.Dir(r.cfg.Exits) }

// address returns the address of swarm's own containerd, which is a part of its shims' addresses.
func (r *Runtime) address() string {
	return layout.Layout{Run: filepath.Dir(r.state())}.Socket()
}

// bundle returns the folder in which a shim keeps the files of a container.
func (r *Runtime) bundle(id string) string {
	return filepath.Join(layout.Bundles(r.state()), layout.Namespace, id)
}

// removeBundle removes what is left of a bundle that containerd could not delete, because a shim
// still used it. It kills the processes in the container's cgroup. The name of the bundle is the
// container's id, with a dot in front if containerd has begun to delete it.
func (r *Runtime) removeBundle(ctx context.Context, name string) error {
	dir, id := r.bundle(name), strings.TrimPrefix(name, ".")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, cgroup := range cgroupDirs(cgroupRoot, r.cgroupIn(r.cfg.CgroupParent, id), id) {
		if err := reap(ctx, cgroup); err != nil {
			return fmt.Errorf("remove bundle %s: cgroup %s: %w", dir, cgroup, err)
		}
	}
	if err := mount.UnmountRecursive(filepath.Join(dir, "rootfs"), 0); err != nil {
		return fmt.Errorf("remove bundle %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
