// Package layout owns the names of every file and folder that the container
// runtime of one node uses, so that the daemon, the runtime process and the
// shims agree on them and two nodes on one machine share none of them.
//
// It does no I/O, refuses nothing but paths too long for unix sockets, runs no
// goroutine, and is called by everybody below the folder containerd and by cmd.
package layout

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Namespace is the containerd namespace of every object swarm makes.
const Namespace = "swarm"

// RuntimeName is the runtime a container must name. The runtime process finds
// its shim of the same build through PATH.
const RuntimeName = "io.containerd.runc.v2"

// GroupAnnotation is the OCI annotation (not a container label) by which
// containers share one shim: equal values, one shim.
//
// A group must not be used again once its last container is gone: that shim is
// on its way out and may still accept one connection. Number the groups.
const GroupAnnotation = "io.containerd.runc.v2.group"

// LeaseAnnotation is the OCI annotation that names the lease file of a container: its shim kills
// the container when the lease has run out.
const LeaseAnnotation = "swarm.lease"

// maxStateLen is what a unix socket address (107 bytes) leaves for State: the
// socket's name is "/s/" and 64 hexadecimal digits.
const maxStateLen = 107 - 64 - len("/s/")

// Layout is where one node keeps its runtime.
type Layout struct {
	// Data survives a reboot; by default /var/lib/swarm.
	Data string
	// Run does not, and must be short; by default /run/swarm.
	Run string
}

// Validate refuses relative paths, a shared folder, and a Run too long for the
// shims' sockets (ErrInvalidArgument).
func (l Layout) Validate() error {
	for _, dir := range []string{l.Data, l.Run} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("folder %q is not an absolute path: %w", dir, errdefs.ErrInvalidArgument)
		}
	}
	if filepath.Clean(l.Data) == filepath.Clean(l.Run) {
		return fmt.Errorf("data and run folder are both %s: choose two folders: %w", l.Data, errdefs.ErrInvalidArgument)
	}
	return ValidateState(l.State())
}

// ValidateState refuses a containerd state folder whose shim sockets would have
// names longer than the kernel allows (ErrInvalidArgument).
func ValidateState(state string) error {
	if len(state) > maxStateLen {
		return fmt.Errorf("folder %s is %d characters too long for the unix sockets in it (at most %d): choose a shorter run folder: %w",
			state, len(state)-maxStateLen, maxStateLen, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Bin holds one folder of programs for each build that is in use.
func (l Layout) Bin() string { return filepath.Join(l.Data, "bin") }

// Root is containerd's persistent folder: content, snapshots, metadata.
func (l Layout) Root() string { return filepath.Join(l.Data, "containerd") }

// State is containerd's transient folder: bundles, shim sockets, exit records.
func (l Layout) State() string { return filepath.Join(l.Run, "ctd") } // short: it stands in the paths of sockets

// Socket is containerd's gRPC address, a path.
func (l Layout) Socket() string { return filepath.Join(l.Run, "containerd.sock") }

// Resolver is where the runtime process is told which names containers may ask for: beside its
// socket.
func Resolver(socket string) string { return filepath.Join(filepath.Dir(socket), "resolver.sock") }

// RuncRoot is the `Root` of the runc options of every container. Two nodes that
// share one lose each other's containers.
func (l Layout) RuncRoot() string { return filepath.Join(l.Run, "runc") }

// Log is the file the runtime process and its shims write to.
func (l Layout) Log() string { return filepath.Join(l.Data, "runtime.log") }

// Exits is the folder of exit records of a containerd state folder.
func Exits(state string) string { return filepath.Join(state, "exits") }

// Lock is the file a runtime process of the given root holds for life.
func Lock(root string) string { return filepath.Join(root, "runtime.lock") }

// ShimSockets is the folder of shim sockets of a containerd state folder.
func ShimSockets(state string) string { return filepath.Join(state, "s") }

// Bundles is the folder, by namespace and container, of a state folder's bundles.
func Bundles(state string) string {
	return filepath.Join(state, "io.containerd.runtime.v2.task")
}

// StateOfBundle is the inverse of Bundles/<namespace>/<container>.
func StateOfBundle(bundle string) string {
	return filepath.Dir(filepath.Dir(filepath.Dir(filepath.Clean(bundle))))
}
