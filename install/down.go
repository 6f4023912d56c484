//go:build linux

package install

import (
	"context"
	"os/exec"
	"strings"
)

// GoingDown reports whether this host is shutting down. It asks the init: systemd, those of System
// V and busybox by their runlevel, and OpenRC. It returns false if none of them answers before ctx
// ends.
func (h *Host) GoingDown(ctx context.Context) bool {
	if h.Systemd() {
		// This works without a bus. The exit code is an error for any state but "running".
		out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
		return strings.TrimSpace(string(out)) == "stopping"
	}
	for _, ask := range []struct {
		command []string
		down    func(answer string) bool
	}{
		// The answer has the former and the current runlevel, such as "2 6"; 0 is halt, 6 is
		// reboot.
		{[]string{"runlevel"}, func(s string) bool { return strings.HasSuffix(s, " 0") || strings.HasSuffix(s, " 6") }},
		{[]string{"rc-status", "--runlevel"}, func(s string) bool { return s == "shutdown" || s == "reboot" }},
	} {
		out, err := exec.CommandContext(ctx, ask.command[0], ask.command[1:]...).Output()
		if err == nil && ask.down(strings.TrimSpace(string(out))) {
			return true
		}
	}
	return false
}
