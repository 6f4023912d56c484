//go:build linux

package install

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
)

// The names of the units.
const (
	Service = "swarm.service"
	Slice   = "swarm.slice"
)

// unitDir is the folder for units of the administrator, which take precedence over those of
// packages.
const unitDir = "/etc/systemd/system"

var (
	//go:embed swarm.service
	serviceText string
	//go:embed swarm.slice
	sliceText string
)

// Systemd reports whether systemd is the init of this host (sd_booted(3)).
func (h *Host) Systemd() bool { return h.exists("/run/systemd/system") }

// Units lists the unit files of swarm that are installed.
func (h *Host) Units() []string {
	var found []string
	for _, name := range []string{Service, Slice} {
		if file := filepath.Join(unitDir, name); h.exists(file) {
			found = append(found, file)
		}
	}
	return found
}

// writeUnits writes the units that are out of date and enables the service.
func (h *Host) writeUnits(ctx context.Context, program string) error {
	if err := wantRoot("install " + Service); err != nil {
		return err
	}
	changed := false
	for name, text := range map[string]string{
		Service: strings.ReplaceAll(serviceText, "@PROGRAM@", program),
		Slice:   sliceText,
	} {
		file := h.path(filepath.Join(unitDir, name))
		if old, err := os.ReadFile(file); err == nil && string(old) == text {
			continue
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		changed = true
	}
	if changed {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	return systemctl(ctx, "enable", "--quiet", Service)
}

// removeUnits stops the service and removes both units.
func (h *Host) removeUnits(ctx context.Context) ([]string, error) {
	units := h.Units()
	if len(units) == 0 {
		return nil, nil
	}
	if err := wantRoot("remove " + Service); err != nil {
		return nil, err
	}
	booted := h.Systemd()
	if booted {
		if err := systemctl(ctx, "disable", "--quiet", "--now", Service); err != nil {
			return nil, err
		}
		// The slice has no container any more. If it is not stopped, it stays until the next boot.
		if err := systemctl(ctx, "stop", Slice); err != nil {
			return nil, err
		}
	}
	for _, file := range units {
		if _, err := h.remove(file); err != nil {
			return nil, err
		}
	}
	if !booted {
		return units, nil
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return units, err
	}
	// systemd remembers a service that has failed. For any other one, the call fails.
	_ = systemctl(ctx, "reset-failed", Service)
	return units, nil
}

// Start starts the service and returns when the daemon is ready. The error is ErrUnavailable, with
// the end of the journal, if the daemon does not start.
func (h *Host) Start(ctx context.Context) error {
	if err := wantRoot("start " + Service); err != nil {
		return err
	}
	err := systemctl(ctx, "start", Service)
	if err != nil {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%v: see `journalctl -u swarm`%s", err, journalTail(ctx)))
	}
	return nil
}

// Stop stops the service, if there is one, and returns when the daemon has ended. systemd does not
// start the service again before the next boot.
func (h *Host) Stop(ctx context.Context) error {
	if !h.Systemd() || !h.exists(filepath.Join(unitDir, Service)) {
		return nil
	}
	return systemctl(ctx, "stop", Service)
}

// systemctl runs one command. Its error has the text that systemctl has written.
func systemctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("systemctl %s: %w%s", strings.Join(args, " "), err, oneLine(stderr.String()))
	}
	return nil
}

// journalTail returns the last lines of the journal of a daemon that did not start. The text is the
// end of a sentence.
func journalTail(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "journalctl", "--unit", Service, "--lines", "3", "--output", "cat", "--no-pager").Output()
	if err != nil || len(bytes.TrimSpace(out)) == 0 {
		return "" // there is no journal, or it is empty
	}
	return ", which ends with" + oneLine(string(out))
}

func oneLine(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return ": " + strings.Join(strings.Split(text, "\n"), "; ")
}
