package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"swarm/internal/durable"
	"swarm/internal/ident"
)

// MachineID returns the ID that tells this host from every other one. It derives from own, or from
// the ID that the operating system gives the machine, or from one that is kept in the state folder:
// minimal systems have none. The state folder is part of it, because two daemons on one machine are
// two hosts. Machines that were cloned with their ID have the same one.
func MachineID(own, stateDir string) (string, error) {
	return machineID(own, stateDir, "/etc/machine-id", "/var/lib/dbus/machine-id")
}

func machineID(own, stateDir string, files ...string) (string, error) {
	for _, file := range files {
		if own != "" {
			break
		}
		if text, err := os.ReadFile(file); err == nil {
			own = strings.TrimSpace(string(text))
		}
	}
	// systemd writes this word until the first boot is complete (machine-id(5)).
	if own == "" || own == "uninitialized" {
		kept, err := keptMachineID(filepath.Join(stateDir, "machine-id"))
		if err != nil {
			return "", err
		}
		own = kept
	}
	// The machine's own ID must not be shown to others (machine-id(5)), so it is hashed.
	sum := sha256.Sum256([]byte(own + "\x00" + stateDir + "\x00swarm"))
	return hex.EncodeToString(sum[:16]), nil
}

// keptMachineID reads the ID in a file, or makes one that outlives a reboot.
func keptMachineID(file string) (string, error) {
	if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := ident.NewID()
	return id, durable.WriteFile(file, []byte(id+"\n"), 0o600)
}
