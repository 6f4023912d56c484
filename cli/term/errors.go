package term

import (
	"strings"

	"swarm/internal/explain"

	"google.golang.org/grpc/status"
)

// ErrorLine returns the text of an error in one line, as users read it: without the class of the
// error and the words of gRPC.
func ErrorLine(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok && strings.HasPrefix(text, "rpc error: ") {
		text = s.Message()
	}
	lines := strings.FieldsFunc(explain.WithoutClass(text), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}
