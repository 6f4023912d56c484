//go:build linux

package install

import (
	"context"
	"os/exec"
	"strings"
)

// GoingDown says whether this host is on its way down: a daemon that is told to end then ends for good. It asks the init
// that there is: systemd, System V's and busybox' by the runlevel, OpenRC's. Where none can say, only the daemon is ended.
func (h *Host) GoingDown(ctx context.Context) bool {
	if h.Systemd() {
		// It answers also without a bus, and exits with an error for any state but "running".
		out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
		return strings.TrimSpace(string(out)) == "stopping"
	}
	for _, ask := range []struct {
		command []string
		down    func(answer string) bool
	}{
		// "2 6": the runlevel before, and the one now; 0 is halt, 6 reboot.
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
