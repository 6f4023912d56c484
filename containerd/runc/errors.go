package runc

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// specFaults are the phrases in runc's errors when the container's configuration is wrong, and not
// the host. runc's errors have no classes.
var specFaults = []string{
	"exec:", "exec format error", "no such file or directory", "not a directory", "is a directory", "permission denied",
	"operation not permitted", "invalid argument", "error mounting", "unknown capability", "sysctl", "error setting rlimit",
	"unable to apply apparmor", "chdir to cwd", "not a device node", "file exists",
}

// Classify gives an error that contains runc's message a class, and shortens it to one line:
// ErrInvalidArgument when the container's configuration is wrong, else ErrUnknown. Other errors are
// returned as they are.
func Classify(err error) error {
	text := err.Error()
	i := strings.Index(text, "OCI runtime")
	if i < 0 {
		return err
	}
	text = strings.TrimSpace(strings.ReplaceAll(text[i:], "\n", " "))
	for _, prefix := range []string{"OCI runtime create failed: ", "OCI runtime start failed: ", "runc create failed: ", "runc did not terminate successfully: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	for _, fault := range specFaults {
		if strings.Contains(text, fault) {
			return fmt.Errorf("%s: %w", text, errdefs.ErrInvalidArgument)
		}
	}
	return fmt.Errorf("%s: %w", text, errdefs.ErrUnknown)
}
