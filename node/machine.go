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

// MachineID returns an ID that differs between hosts. It is a hash of the machine's ID and of the
// state folder's path, because two daemons on one machine are two hosts. The machine's ID is
// given, or if given is empty, the ID of the operating system. Minimal systems have no such ID:
// then MachineID makes one and stores it in the state folder. If a machine was cloned together with
// its ID, both machines have the same ID.
func MachineID(given, stateDir string) (string, error) {
	return machineID(given, stateDir, "/etc/machine-id", "/var/lib/dbus/machine-id")
}

func machineID(id, stateDir string, files ...string) (string, error) {
	for _, file := range files {
		if id != "" {
			break
		}
		if text, err := os.ReadFile(file); err == nil {
			id = strings.TrimSpace(string(text))
		}
	}
	// systemd writes this word until the first boot is complete (machine-id(5)).
	if id == "" || id == "uninitialized" {
		kept, err := keptMachineID(filepath.Join(stateDir, "machine-id"))
		if err != nil {
			return "", err
		}
		id = kept
	}
	// The machine's own ID must not be shown to others (machine-id(5)), so it is hashed.
	sum := sha256.Sum256([]byte(id + "\x00" + stateDir + "\x00swarm"))
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
