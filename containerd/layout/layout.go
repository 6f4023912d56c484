// Package layout owns the names of all files and folders that the container runtime of one node
// uses, so that the daemon, the runtime process and the shims agree on them, and two nodes on one
// machine share none of them.
//
// It does no I/O. It returns ErrInvalidArgument for relative paths and for paths that are too long
// for unix sockets. cmd/swarm and the packages below the folder containerd call it. It runs no
// goroutine.
package layout

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Namespace is the containerd namespace of all objects that swarm makes.
const Namespace = "swarm"

// RuntimeName is the runtime that each container must name. The runtime process finds the shim of
// its own build through PATH.
const RuntimeName = "io.containerd.runc.v2"

// GroupAnnotation is the OCI annotation (not a container label) with the name of a container's
// group. Containers of one group share a shim.
//
// The name of a group must not be used again after its last container is deleted, because the shim
// that ends may still accept a connection.
const GroupAnnotation = "io.containerd.runc.v2.group"

// LeaseAnnotation is the OCI annotation with the path of a container's lease file. The shim kills
// the container when the lease has run out.
const LeaseAnnotation = "swarm.lease"

// maxStateLen is how long the path of State may be: a unix socket address has 107 bytes, and a
// socket has the name "/s/" and 64 hexadecimal digits.
const maxStateLen = 107 - 64 - len("/s/")

// Layout says where one node keeps the files of its runtime.
type Layout struct {
	// Data survives a reboot. The default is /var/lib/swarm.
	Data string
	// Run does not survive a reboot, and must be short. The default is /run/swarm.
	Run string
}

// Validate returns ErrInvalidArgument if a path is relative, if both folders are the same, or if
// Run is too long for the shims' sockets.
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

// ValidateState returns ErrInvalidArgument if the path of a containerd state folder is too long for
// the shims' sockets.
func ValidateState(state string) error {
	if len(state) > maxStateLen {
		return fmt.Errorf("folder %s is %d characters too long for the unix sockets in it (at most %d): choose a shorter run folder: %w",
			state, len(state)-maxStateLen, maxStateLen, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Bin returns the folder that has a folder of programs for each build in use.
func (l Layout) Bin() string { return filepath.Join(l.Data, "bin") }

// Root returns containerd's persistent folder: content, snapshots and metadata.
func (l Layout) Root() string { return filepath.Join(l.Data, "containerd") }

// State returns containerd's transient folder: bundles, shim sockets and exit records.
func (l Layout) State() string { return filepath.Join(l.Run, "ctd") } // The name is short, because it is part of the paths of sockets.

// Socket returns the path of containerd's gRPC socket.
func (l Layout) Socket() string { return filepath.Join(l.Run, "containerd.sock") }

// Resolver returns the path of the socket, beside containerd's, on which the runtime process is
// told which names containers may resolve.
func Resolver(socket string) string { return filepath.Join(filepath.Dir(socket), "resolver.sock") }

// RuncRoot returns the field Root of the runc options of every container. Two nodes that share it
// lose each other's containers.
func (l Layout) RuncRoot() string { return filepath.Join(l.Run, "runc") }

// Log returns the path of the file to which the runtime process and its shims write their log.
func (l Layout) Log() string { return filepath.Join(l.Data, "runtime.log") }

// Exits returns the folder of exit records in a containerd state folder.
func Exits(state string) string { return filepath.Join(state, "exits") }

// Lock returns the path of the file that the runtime process of a containerd root folder locks.
func Lock(root string) string { return filepath.Join(root, "runtime.lock") }

// ShimSockets returns the folder of shim sockets in a containerd state folder.
func ShimSockets(state string) string { return filepath.Join(state, "s") }

// Bundles returns the folder of bundles in a containerd state folder. A bundle is the folder
// <namespace>/<container> in it.
func Bundles(state string) string {
	return filepath.Join(state, "io.containerd.runtime.v2.task")
}

// StateOfBundle returns the containerd state folder of a bundle. It is the inverse of Bundles.
func StateOfBundle(bundle string) string {
	return filepath.Dir(filepath.Dir(filepath.Dir(filepath.Clean(bundle))))
}
