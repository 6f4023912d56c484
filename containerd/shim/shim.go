//go:build linux

// Package shim is swarm's shim mode: containerd's own runc shim, which also
// keeps an exit record of every container.
//
// It owns the shim's process from start to end, and the writing of exit records
// (package exit) below the state folder that its containers' bundles are in.
// Nobody outside the process, neither containerd nor its clients, is told of an
// exit before its record stands, and a record is removed by nobody but the
// daemon, save that creating a container removes a namesake's.
//
// cmd calls Main when the program was started under the shim's name. It runs one
// goroutine for each container, besides those of containerd's shim.
package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	runcC "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"golang.org/x/sys/unix"

	"swarm/containerd/exit"
	"swarm/containerd/layout"
)

// Name is the file name under which the program runs as a shim. containerd
// derives it from layout.RuntimeName.
const Name = "containerd-shim-runc-v2"

// Invoked reports whether the program was started as a shim. The second stage
// of a shim re-executes os.Executable, so the name must be a file's, not a
// symbolic link's.
func Invoked(args []string) bool {
	return len(args) > 0 && filepath.Base(args[0]) == Name
}

// Main runs the shim until it is shut down; it parses the process's arguments,
// and ends the process on error.
func Main() {
	// A shim initialises whatever is registered, and the program it shares with
	// containerd has registered all of containerd.
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(context.Background(), reaper{manager.NewShimManager(layout.RuntimeName)})
}

func newTaskService(ic *plugin.InitContext) (any, error) {
	p, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	s, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	sd := s.(shutdown.Service)
	removeSocketAtShutdown(sd)
	rec := newRecorder(ic.Context)
	inner, err := task.NewTaskService(ic.Context, publisher{p.(shim.Publisher), rec}, sd)
	if err != nil {
		return nil, err
	}
	rec.TTRPCTaskService = inner
	runcC.Monitor = monitor{runcC.Monitor, rec}
	return rec, nil
}

// removeSocketAtShutdown removes the socket that the shim was started on.
// containerd's shim derives its name from the container it was started for, so
// that the sockets of groups stay behind for ever.
func removeSocketAtShutdown(sd shutdown.Service) {
	const inherited = 3 // the listening socket, passed by the first stage
	addr, err := unix.Getsockname(inherited)
	if err != nil {
		return // started with -socket, which is removed by that name
	}
	if a, ok := addr.(*unix.SockaddrUnix); ok && filepath.IsAbs(a.Name) {
		sd.RegisterCallback(func(context.Context) error {
			if err := os.Remove(a.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove shim socket: %w", err)
			}
			return nil
		})
	}
}

// reaper is the shim's manager with two differences: cleaning up after a dead
// shim leaves an exit record behind, and a busy shim is not taken for dead.
type reaper struct{ shim.Shim }

// Stop kills what is left of a container whose shim is gone. It runs in a
// process of its own, in the bundle of some container of the same namespace.
func (r reaper) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	status, err := r.Shim.Stop(ctx, id)
	if err != nil {
		return status, err
	}
	if err := recordLost(ctx, id, status); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("exit is not recorded")
	}
	return status, nil
}

func recordLost(ctx context.Context, id string, status shim.StopStatus) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil // the bundle is gone: an orderly deletion overtook us
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	if _, err := os.Stat(bundle); err != nil {
		return nil // likewise
	}
	dir := exit.Dir(layout.Exits(layout.StateOfBundle(bundle)))
	if _, err := dir.Read(namespace, id); !errdefs.IsNotFound(err) {
		return err
	}
	_, err = runc.ReadExitStatus(bundle)
	return dir.Write(namespace, id, exit.Record{
		Status:   uint32(status.ExitStatus),
		ExitedAt: status.ExitedAt,
		ShimLost: err != nil,
	})
}
