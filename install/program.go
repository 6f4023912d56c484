//go:build linux

package install

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"swarm/internal/durable"
	"swarm/internal/private"
)

// program is the path to which the program is copied.
const program = "/usr/local/bin/swarm"

// programDirs are folders whose programs stay where they are: they are in PATH, and systemd may run
// programs from them.
var programDirs = []string{"/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"}

// recordFile is the file with the path of the program that was copied. It is removed with the
// daemon's state.
func (h *Host) recordFile() string { return filepath.Join(h.cfg.StateDir, "installed") }

// record returns the path of the program that Install has copied, or nothing if it has copied none.
func (h *Host) record() (string, error) {
	text, err := os.ReadFile(h.path(h.recordFile()))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// copyProgram replaces the installed program in one step. A daemon that runs from there keeps the
// file from which it was started.
func (h *Host) copyProgram(content string) (copied bool, err error) {
	target := h.path(program)
	if same, err := equal(content, target); same || err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return false, err
	}
	if err := private.Folder(h.path(h.cfg.StateDir)); err != nil {
		return false, err
	}
	// The record is written first: without it, Uninstall would not find the copy.
	if err := durable.WriteFile(h.path(h.recordFile()), []byte(program+"\n"), 0o600); err != nil {
		return false, err
	}
	from, err := os.Open(content)
	if err != nil {
		return false, err
	}
	defer from.Close()
	return true, durable.Replace(target, from, 0o755)
}

// equal compares the content of two files. b need not exist; then they are not equal.
func equal(a, b string) (bool, error) {
	left, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer left.Close()
	right, err := os.Open(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer right.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(left, x)
		m, errB := io.ReadFull(right, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if ended(errA) && ended(errB) {
			return true, nil
		}
		if errA != nil && !ended(errA) || errB != nil && !ended(errB) {
			return false, errors.Join(errA, errB)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
