package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// ErrRuntimeAway means that the runtime does not answer, or went away before it did. The call may have taken effect or
// not: nothing is known of the container, which is no failure of its task. Make the same call again. After a Start that
// took effect, the repeated call returns ErrFailedPrecondition; a repeated Prepare, Update, Stop or Remove changes
// nothing.
var ErrRuntimeAway = errdefs.ErrUnavailable.WithMessage("the node's container runtime does not answer")

// Away returns an error of a call to the runtime's process: ErrRuntimeAway and what came, if that says that the process was
// not there to answer.
func Away(err error) error {
	if errdefs.IsUnavailable(err) && !errors.Is(err, ErrRuntimeAway) {
		return fmt.Errorf("%w: %w", ErrRuntimeAway, err)
	}
	return err
}

// Runtime runs the containers of tasks, one for each task, named by the task's id. Implementations are safe for
// concurrent use by many tasks; calls for one task do not overlap, except that Wait runs beside Stop, Update and Remove.
// Every method but Wait, which goes on through a restart of the runtime, may return ErrRuntimeAway.
// worker/runtimetest is the contract in executable form.
type Runtime interface {
	// Prepare creates the container, whose image is held already (Images.Pull), without starting it. Doing it again for the
	// same task is no error and changes nothing. ErrNotFound: the image is not held; ErrInvalidArgument: the spec cannot run.
	Prepare(ctx context.Context, c Container) error
	// Start starts a prepared container. ErrNotFound: it was not prepared. ErrFailedPrecondition: it has run before.
	// An error of what the spec asks for (no such program, no such mount) is ErrInvalidArgument.
	Start(ctx context.Context, taskID string) (Started, error)
	// Wait blocks until the container that was started has ended. It answers at once when that was before the call, or
	// before this process began; CodeUnknown when nobody recorded the code. ErrNotFound: no container of that task.
	Wait(ctx context.Context, taskID string) (Exit, error)
	// Update gives the container the limits of CPU, memory, swap and pids, and the reserved memory, that r asks for, whatever
	// it had; one that has not been started starts with them. What it has already costs next to nothing. ErrNotFound: it
	// has ended, or there is none. ErrFailedPrecondition: it runs on as it was, because the kernel refuses, as when it uses
	// more memory than the limit.
	Update(ctx context.Context, taskID string, r *swarmv1.ResourceRequirements) error
	// Stop sends the signal ("SIGTERM", "TERM", "15"; empty: the image's own, else SIGTERM), and after grace SIGKILL, and returns when the
	// container has ended. What does not run, or does not exist, is stopped: nil. Grace 0 kills at once.
	Stop(ctx context.Context, taskID, signal string, grace time.Duration) error
	// ImageDefaults returns what the image of a prepared container asks for beyond its process. ErrNotFound: there is no such
	// container.
	ImageDefaults(ctx context.Context, taskID string) (ImageDefaults, error)
	// Remove deletes the container, killing it if it runs, its snapshot and all that Prepare made. Idempotent.
	Remove(ctx context.Context, taskID string) error
	// List names every container this node has, running or not.
	List(ctx context.Context) ([]Found, error)
}

// Names of the files in Container.LogDir. The worker creates them, empty; whoever holds the container's output appends.
const (
	StdoutFile = "stdout"
	StderrFile = "stderr"
)

// Container is what Prepare needs to know.
type Container struct {
	Task *swarmv1.Task
	// Revision has the templates in env, hostname and mounts expanded. Read-only.
	Revision *swarmv1.Revision
	// Netns is the path of the network namespace; empty: the host's.
	Netns string
	// Hostname inside the container.
	Hostname string
	// Host paths, bind mounted over /etc/resolv.conf, /etc/hosts and /etc/hostname. Empty: the image's own.
	ResolvConf, HostsFile, HostnameFile string
	// Files are the secrets and configs.
	Files []File
	// LogDir holds StdoutFile and StderrFile, opened for append by the shim. With a terminal all goes to StdoutFile. Empty:
	// what the container writes is thrown away.
	LogDir string
	// Lease is the file (see package lease) whose end also ends the container: it is killed then, whatever
	// becomes of this process. Empty: no lease ends it.
	Lease string
	// CgroupParent is the cgroup that containers of this node live under.
	CgroupParent string
	Node         NodeInfo
}

// Spec is the container's part of the revision; never nil.
func (c Container) Spec() *swarmv1.ContainerSpec {
	if s := c.Revision.GetSpec().GetTaskTemplate().GetContainerSpec(); s != nil {
		return s
	}
	return &swarmv1.ContainerSpec{}
}

// File is a secret or config as it appears in the container.
type File struct {
	// Path in the container, absolute.
	Path string
	Data []byte
	// UID and GID are numbers, or names of the image.
	UID, GID string
	// Mode has permission bits only.
	Mode uint32
	// Secret: must never reach a disk.
	Secret bool
}

// NodeInfo names the node to what runs on it.
type NodeInfo struct {
	ID, Hostname, OS, Arch string
}

// Started is what is known of a container that runs.
type Started struct {
	Pid uint32
}

// ImageDefaults is what an image says of containers that is not of their process, within the bounds of a service's own
// values. A service's own values come first.
type ImageDefaults struct {
	// Healthcheck is the image's HEALTHCHECK; nil: it has none.
	Healthcheck *swarmv1.HealthConfig
	// Shell runs the checks of kind CMD-SHELL; empty: /bin/sh -c.
	Shell []string
}

// Exit is how a container ended.
type Exit struct {
	// Code is the exit code, or 128 plus the signal.
	Code int
	At   time.Time
	// OOM: the kernel killed a process of the container for lack of memory.
	OOM bool
	// Fenced: the shim killed the container because its lease had run out.
	Fenced bool
	// CodeUnknown: it has ended, and nobody recorded how. Code is -1 then.
	CodeUnknown bool
}

// Found is a container that the runtime has.
type Found struct {
	TaskID, ServiceID string
	Running           bool
	Pid               uint32
}

// Executor runs a second process in a task's container.
type Executor interface {
	// Exec runs until the process ends, and gives its exit code. Output that processes write which the process has left
	// behind is lost then. The end of ctx kills the process. ErrNotFound: no such
	// container, ErrFailedPrecondition: it does not run, a CommandError: the command cannot be started, ErrRuntimeAway:
	// nothing is known of the process.
	Exec(ctx context.Context, start *swarmv1.ExecStart, streams ExecStreams) (exitCode int, err error)
}

// Codes of a command that was not started, as shells and Docker have them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// CommandError says that the command of an exec cannot be started, though its container runs. It is an ErrInvalidArgument.
type CommandError struct {
	// NotFound: there is no such program; otherwise there is, and it cannot be executed.
	NotFound bool
	// Text names the command and says what is wrong with it.
	Text string
}

func (e *CommandError) Error() string { return e.Text }
func (e *CommandError) Unwrap() error { return errdefs.ErrInvalidArgument }

// Code is what the exec ends with for its user.
func (e *CommandError) Code() int {
	if e.NotFound {
		return codeNotFound
	}
	return codeNotExecutable
}

// ExecStreams connects an exec. Nil readers and writers mean nothing to read and discard.
type ExecStreams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize and Signals are optional; the executor reads them until the process ends. A late resize is not an error.
	Resize  <-chan *swarmv1.Resize
	Signals <-chan syscall.Signal
	// Started, when set, is called once the process runs.
	Started func()
	// Whole: the end of ctx kills not only the process, but also what it has started, as far as that can be told.
	Whole bool
}

// PullRequest names an image to fetch.
type PullRequest struct {
	// Ref with or without digest; with one, any source of that digest serves, peers first.
	Ref string
	// Auth is Docker's X-Registry-Auth, or empty.
	Auth string
	// Platform is "os/arch[/variant]"; empty: the node's own.
	Platform string
}

// PushRequest names an image that is held, and where it goes.
type PushRequest struct {
	// Ref with its digest; its registry and tag are the destination.
	Ref string
	// Auth is Docker's X-Registry-Auth, or empty.
	Auth string
}

// Images is what the worker needs of the node's image store.
type Images interface {
	// Pull fetches what is missing and makes the image ready for Prepare; it costs next to nothing when the node has it.
	// progress may be nil. Errors: ErrNotFound (no registry or peer has it: trying again is of little use), ErrUnavailable
	// (worth trying again), ErrUnauthenticated and ErrPermissionDenied (credentials), ErrInvalidArgument (reference or platform),
	// ErrRuntimeAway (the store is the runtime's).
	Pull(ctx context.Context, req PullRequest, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error)
	// Push sends a held image with all its platforms to its registry. ErrNotFound: the node does not hold all of it; else as Pull.
	Push(ctx context.Context, req PushRequest, progress func(*swarmv1.ImageProgress)) error
	// Remove deletes an image by digest. ErrNotFound, or ErrFailedPrecondition while a container uses it.
	Remove(ctx context.Context, digest string) error
	// List gives the images whose blobs are all here.
	List(ctx context.Context) ([]*swarmv1.Image, error)
	// Changed is closed when what List gives next changes. Ask for the channel before calling List.
	Changed() <-chan struct{}
}

// ImageStore is Images and what the rest of the daemon needs: loading, and serving peers.
type ImageStore interface {
	Images
	// Load reads an OCI or Docker archive, possibly compressed. name replaces the archive's own when it has none or one image.
	Load(ctx context.Context, archive io.Reader, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error)
	// Holds says whether all blobs of an image's digest are here.
	Holds(digest string) bool
	// Blob opens a blob that belongs to an image of the cluster; ErrNotFound for anything else.
	Blob(ctx context.Context, digest string) (Blob, error)
}

// Blob is immutable content.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
