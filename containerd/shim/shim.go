//go:build linux

// Package shim is swarm's shim mode: containerd's own runc shim with exit records, leases, and a
// copy of outputs that survives a full disk.
//
// It owns the shim process from start to end, and writes the exit records (package exit) into the
// containerd state folder in which the bundles of its containers are. It reports an exit to
// containerd only after it has written the record. The daemon removes records. The shim removes
// only an older record with the name of a container that it creates.
//
// cmd calls Main when the program was started under the shim's name. The package runs, for each
// container, one goroutine that waits for the exit, one for each output, and one for the lease of a
// single-writer task. They end with the container. One more goroutine ends a shim that has had no
// container for half a minute. All others are those of containerd's shim.
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

// Name is the file name under which the program runs as a shim. containerd derives it from
// layout.RuntimeName.
const Name = "containerd-shim-runc-v2"

// Invoked reports whether the program was started as a shim. A shim starts in two stages:
// containerd starts a short-lived process, which executes os.Executable again as the process that
// serves. So the file of the program must have the name Name. A symbolic link with this name is not
// enough.
func Invoked(args []string) bool {
	return len(args) > 0 && filepath.Base(args[0]) == Name
}

// Main runs the shim until it is shut down. It parses the arguments of the process, and ends the
// process on an error.
func Main() {
	// A shim initialises all registered plugins, and this program has registered those of
	// containerd.
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(context.Background(), shimManager{manager.NewShimManager(layout.RuntimeName)},
		func(c *shim.Config) { c.NoSetupLogger = true }) // newTaskService sets it up
}

func newTaskService(ic *plugin.InitContext) (any, error) {
	setLogger(ic.Context)
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
	go rec.endWhenIdle(ic.Context)
	runcC.Monitor = monitor{runcC.Monitor, rec}
	return rec, nil
}

// removeSocketAtShutdown removes the socket that the shim was started on. containerd's shim derives
// the socket's name from the container for which it was started, so that the sockets of groups
// would never be removed.
func removeSocketAtShutdown(sd shutdown.Service) {
	const inherited = 3 // the listening socket, which the first stage has passed on
	addr, err := unix.Getsockname(inherited)
	if err != nil {
		return // The shim was started with -socket, and removes that socket by its name.
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

// shimManager is containerd's manager of a shim with two differences: the clean-up after a dead
// shim writes an exit record (Stop), and a busy shim is not treated as dead (Start).
type shimManager struct{ shim.Shim }

// Stop kills what is left of a container whose shim has died. containerd calls Stop in a new
// process, whose working directory is the bundle of some container of the same namespace.
func (r shimManager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
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
		return nil // The bundle is gone, because the container was deleted in the meantime.
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	if _, err := os.Stat(bundle); err != nil {
		return nil // As above.
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
