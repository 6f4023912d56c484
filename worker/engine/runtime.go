package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// ErrRuntimeAway means that the runtime does not answer, or went away before it did. It is an
// ErrUnavailable. The call may have taken effect or not. This is not a failure of the task: make
// the same call again. After a Start that took effect, the repeated call returns
// ErrFailedPrecondition. A repeated Prepare, Update, Stop or Remove changes nothing.
var ErrRuntimeAway = errdefs.ErrUnavailable.WithMessage("the node's container runtime does not answer")

// Away wraps the error of a call to the runtime's process with ErrRuntimeAway if it is an
// ErrUnavailable, which means that the process was not there to answer. It returns any other error
// as it is.
func Away(err error) error {
	if errdefs.IsUnavailable(err) && !errors.Is(err, ErrRuntimeAway) {
		return fmt.Errorf("%w: %w", ErrRuntimeAway, err)
	}
	return err
}

// Runtime runs the containers of tasks. Each task has one container, which has the task's id as its
// name. Implementations are safe for concurrent use by many tasks. Calls for one task do not
// overlap, except that Wait runs beside Stop, Update, Exchange, Signal and Remove. Every method may
// return ErrRuntimeAway, except Wait, which continues through a restart of the runtime.
// worker/runtimetest tests this contract.
type Runtime interface {
	// Prepare creates the container without starting it. Its image must be held already
	// (Images.Pull). It is idempotent. ErrNotFound: the image is not held. ErrInvalidArgument: the
	// spec cannot run.
	Prepare(ctx context.Context, c Container) error
	// Start starts a prepared container. ErrNotFound: it was not prepared. ErrFailedPrecondition:
	// it has run before. ErrInvalidArgument: the spec asks for something that does not exist, such
	// as a program or a mount.
	Start(ctx context.Context, taskID string) (Started, error)
	// Wait blocks until the started container has ended. It returns at once if the container ended
	// before the call, or before this process began. Exit.CodeUnknown is set if no process recorded
	// the code. ErrNotFound: the task has no container.
	Wait(ctx context.Context, taskID string) (Exit, error)
	// Update replaces the container's limits of CPU, memory, swap and pids, and its reserved
	// memory, by those of r. A container that has not been started yet starts with them. An update
	// to limits that the container already has is cheap. ErrNotFound: the container has ended or
	// does not exist. ErrFailedPrecondition: the kernel refuses the limits, for example because the
	// container uses more memory than the limit. The container then runs on with its former limits.
	Update(ctx context.Context, taskID string, r *swarmv1.ResourceRequirements) error
	// Exchange replaces the data of the secrets and configs that differ from those of files.
	// Processes of the container see the old or the new data of each file, and never a part. files
	// has the paths of the Files of Prepare. ErrNotFound: the container has ended or does not
	// exist. ErrFailedPrecondition: the container cannot get other files while it runs.
	Exchange(ctx context.Context, taskID string, files []File) error
	// Signal sends a signal, written as for Stop, to the container's first process. ErrNotFound:
	// the container has ended or does not exist.
	Signal(ctx context.Context, taskID, signal string) error
	// Stop sends the signal ("SIGTERM", "TERM" or "15"; empty: the signal that the image names,
	// else SIGTERM), and after grace SIGKILL. It returns when the container has ended. With grace 0
	// it sends only SIGKILL. A container that does not run or does not exist counts as stopped:
	// Stop returns nil.
	Stop(ctx context.Context, taskID, signal string, grace time.Duration) error
	// ImageDefaults returns what the image of a prepared container asks for beyond its process.
	// ErrNotFound: the task has no container.
	ImageDefaults(ctx context.Context, taskID string) (ImageDefaults, error)
	// Remove kills the container if it runs, and deletes it, its snapshot and everything else that
	// Prepare made. It is idempotent.
	Remove(ctx context.Context, taskID string) error
	// List returns every container of this node, running or not.
	List(ctx context.Context) ([]Found, error)
}

// StdoutFile and StderrFile are the names of the files in Container.LogDir. LogStore.Create makes
// them empty; the process that holds the container's output appends to them.
const (
	StdoutFile = "stdout"
	StderrFile = "stderr"
)

// Container describes a container to Runtime.Prepare.
type Container struct {
	Task *swarmv1.Task
	// Revision has the templates in env, hostname and mounts expanded. Read-only.
	Revision *swarmv1.Revision
	// Netns is the path of the network namespace; empty: the host's.
	Netns string
	// Hostname inside the container.
	Hostname string
	// ResolvConf, HostsFile and HostnameFile are host paths that are bind mounted over
	// /etc/resolv.conf, /etc/hosts and /etc/hostname. Empty: the container has the image's file.
	ResolvConf, HostsFile, HostnameFile string
	// Files are the secrets and configs.
	Files []File
	// LogDir holds StdoutFile and StderrFile, which the shim opens for append. With a terminal, all
	// output goes to StdoutFile. Empty: the output is discarded.
	LogDir string
	// Lease is the file of a lease (see package lease). The container is killed when the lease runs
	// out, even if this process is gone. Empty: no lease ends the container.
	Lease string
	// CgroupParent is the cgroup that containers of this node live under.
	CgroupParent string
	Node         NodeInfo
}

// Spec returns the container's part of the revision. It is never nil.
func (c Container) Spec() *swarmv1.ContainerSpec {
	if s := c.Revision.GetSpec().GetTaskTemplate().GetContainerSpec(); s != nil {
		return s
	}
	return &swarmv1.ContainerSpec{}
}

// File is a secret or config as it appears in the container. Its data must never be written to a
// disk.
type File struct {
	// Path is the absolute path in the container.
	Path string
	Data []byte
	// UID and GID are numbers, or names of the image.
	UID, GID string
	// Mode has permission bits only.
	Mode uint32
}

// NodeInfo describes the node to the containers that run on it.
type NodeInfo struct {
	ID, Hostname, OS, Arch string
}

// Started describes a container that runs.
type Started struct {
	Pid uint32
}

// ImageDefaults is what an image says about its containers beyond their process. The values are
// within the bounds of a service's values. A value of the service replaces that of the image.
type ImageDefaults struct {
	// Healthcheck is the image's HEALTHCHECK; nil: it has none.
	Healthcheck *swarmv1.HealthConfig
	// Shell runs the checks of kind CMD-SHELL; empty: /bin/sh -c.
	Shell []string
}

// Exit says how a container ended.
type Exit struct {
	// Code is the exit code, or 128 plus the signal.
	Code int
	At   time.Time
	// OOM is set if the kernel killed a process of the container for lack of memory.
	OOM bool
	// Fenced is set if the shim killed the container because its lease had run out.
	Fenced bool
	// CodeUnknown is set if the container has ended and no process recorded how. Code is -1 then.
	CodeUnknown bool
}

// Found is a container that the runtime has.
type Found struct {
	TaskID, ServiceID string
	Running           bool
	Pid               uint32
}

// Executor runs a second process in a task's container, and connects to the container's ports.
type Executor interface {
	// Exec runs until the process ends, and returns its exit code. If the process leaves child
	// processes behind, what they write afterwards is lost. The end of ctx kills the process.
	// ErrNotFound: the task has no container. ErrFailedPrecondition: the container does not run.
	// CommandError: the command cannot be started. ErrRuntimeAway: nothing is known of the process.
	Exec(ctx context.Context, start *swarmv1.ExecStart, streams ExecStreams) (exitCode int, err error)
	// Dial connects to a TCP port in the network namespace of the task's container: on its
	// loopback, or else on another of its addresses. ErrNotFound: the task has no container.
	// ErrFailedPrecondition: the container does not run, or no program accepts connections on the
	// port. The end of ctx ends the attempt, but not the connection.
	Dial(ctx context.Context, taskID string, port uint16) (net.Conn, error)
}

// The exit codes that shells and Docker use for a command that was not started.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// CommandError says that the command of an exec cannot be started although its container runs. It
// is an ErrInvalidArgument.
type CommandError struct {
	// NotFound is set if the program does not exist. If it is not set, the program exists but
	// cannot be executed.
	NotFound bool
	// Text is the message for the user. It names the command.
	Text string
}

func (e *CommandError) Error() string { return e.Text }
func (e *CommandError) Unwrap() error { return errdefs.ErrInvalidArgument }

// Code returns the exit code of the exec for its user: 127 or 126.
func (e *CommandError) Code() int {
	if e.NotFound {
		return codeNotFound
	}
	return codeNotExecutable
}

// ExecStreams has the input and output of an exec. A nil reader is empty, and a nil writer
// discards.
type ExecStreams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize and Signals are optional. The executor reads them until the process ends. A resize
	// after the end is not an error.
	Resize  <-chan *swarmv1.Resize
	Signals <-chan syscall.Signal
	// Started, when set, is called once the process runs.
	Started func()
	// Whole makes the end of ctx kill also the processes that the process has started, as far as
	// they can be found.
	Whole bool
}

// PullRequest names an image to fetch.
type PullRequest struct {
	// Ref may have a digest. Then the image may come from any source that has the digest, and other
	// nodes are asked before the registry.
	Ref string
	// Auth is Docker's X-Registry-Auth, or empty.
	Auth string
	// Platform is "os/arch[/variant]"; empty: the node's platform.
	Platform string
}

// PushRequest names an image that is held, and its destination.
type PushRequest struct {
	// Ref has a digest. Its registry and tag are the destination.
	Ref string
	// Auth is Docker's X-Registry-Auth, or empty.
	Auth string
}

// Images is the node's image store. Implementations are safe for concurrent use.
type Images interface {
	// Pull fetches the parts of an image that are missing and makes the image ready for Prepare. It
	// is cheap if the node has the image. progress may be nil. ErrNotFound: no registry or peer has
	// the image, and a retry is of little use. ErrUnavailable: a retry may succeed.
	// ErrUnauthenticated and ErrPermissionDenied: the credentials do not allow it.
	// ErrInvalidArgument: the reference or the platform is wrong. ErrRuntimeAway: the store belongs
	// to a runtime that does not answer.
	Pull(ctx context.Context, req PullRequest, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error)
	// Push sends a held image with all its platforms to its registry. ErrNotFound: the node does
	// not hold all of it. Other errors are those of Pull.
	Push(ctx context.Context, req PushRequest, progress func(*swarmv1.ImageProgress)) error
	// Remove deletes an image by its digest. ErrNotFound: the node does not hold it.
	// ErrFailedPrecondition: a container uses it.
	Remove(ctx context.Context, digest string) error
	// List returns the images whose blobs are all on this node.
	List(ctx context.Context) ([]*swarmv1.Image, error)
	// Changed returns a channel that is closed when List would return something else. Call it
	// before List.
	Changed() <-chan struct{}
}

// ImageStore is Images and the methods that the rest of the daemon needs, to load images and to
// serve them to peers.
type ImageStore interface {
	Images
	// Load reads an OCI or Docker archive, which may be compressed. name replaces the name in
	// the archive if the archive has at most one image.
	Load(ctx context.Context, archive io.Reader, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error)
	// Holds reports whether all blobs of the image with this digest are on this node.
	Holds(digest string) bool
	// Blob opens a blob that belongs to an image of the cluster. ErrNotFound: no image has such a
	// blob.
	Blob(ctx context.Context, digest string) (Blob, error)
}

// Blob is immutable content.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
