package explain

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// TaskName returns what users call a task of the service with the given name: "web.2", or
// "web.NODEID" if the service is global.
func TaskName(service string, t *swarmv1.Task) string {
	if n := t.GetSlot(); n != 0 {
		return service + "." + strconv.FormatUint(n, 10)
	}
	return service + "." + t.GetNodeId()
}

// TaskError returns why no node is suitable for the task, if it has no node, and the error that its
// worker reported, if it has one. It returns "" if there is no error.
func TaskError(st *swarmv1.TaskStatus) string {
	if u := st.GetUnplaced(); u != nil && st.GetState() <= swarmv1.TaskState_PENDING {
		return Unplaced(u)
	}
	return WithoutClass(strings.Join(strings.Fields(st.GetErr()), " "))
}

// Failure returns why a task that has ended did not do what it was started for: the error that its
// worker reported, or its exit code.
func Failure(st *swarmv1.TaskStatus) string {
	switch {
	case st.GetErr() != "":
		return TaskError(st)
	case st.GetState() == swarmv1.TaskState_COMPLETE:
		return "exit code 0"
	case st.GetContainerStatus().GetOomKilled():
		return "it ran out of memory"
	case st.GetContainerStatus().GetExitCodeUnknown():
		return "it ended, with an exit code that nobody knows"
	}
	return fmt.Sprintf("exit code %d", st.GetContainerStatus().GetExitCode())
}

// WithoutClass returns text without the names of error classes at its end, such as ": failed
// precondition". Programs need them, users do not.
func WithoutClass(text string) string {
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrAlreadyExists, errdefs.ErrUnavailable, errdefs.ErrAborted,
		errdefs.ErrConflict, errdefs.ErrInternal, errdefs.ErrUnknown, errdefs.ErrNotImplemented,
	} {
		if rest, ok := strings.CutSuffix(text, ": "+class.Error()); ok {
			return WithoutClass(rest)
		}
	}
	return text
}

// ImageHint returns what the user can do if the error of a task says that its image could not be
// fetched. It returns "" for any other error, and for an error that already says what to do.
func ImageHint(err, image string) string {
	if spec.LacksImage(err) {
		return ""
	}
	low := strings.ToLower(err)
	for _, sign := range []string{"no such image", "pull", "manifest unknown", "image not found", "cannot fetch", "no node holds", "resolve image"} {
		if strings.Contains(low, sign) {
			return loadHint(image)
		}
	}
	return ""
}

func loadHint(image string) string {
	return "bring the image with " + spec.LoadHint(image) + ", or use one that a registry has"
}
