package term

import (
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/status"
)

// ErrorLine returns the text of an error in one line, as users read it: without the class of the
// error and the words of gRPC.
func ErrorLine(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok && strings.HasPrefix(text, "rpc error: ") {
		text = s.Message()
	}
	lines := strings.FieldsFunc(withoutClass(text), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// withoutClass returns a text without the name of an error class at its end. Classes are for
// programs.
func withoutClass(text string) string {
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrAlreadyExists, errdefs.ErrUnavailable, errdefs.ErrAborted,
		errdefs.ErrConflict, errdefs.ErrInternal, errdefs.ErrUnknown, errdefs.ErrNotImplemented,
	} {
		if rest, ok := strings.CutSuffix(text, ": "+class.Error()); ok {
			return withoutClass(rest)
		}
	}
	return text
}
