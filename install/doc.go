//go:build linux

// Package install puts swarm onto this host and takes it off again. It copies the program into a
// folder where users and systemd find it, writes the units that run it if systemd is the init,
// starts a daemon with or without systemd, replaces the program in an upgrade, and removes what a
// daemon leaves.
//
// The package owns the text of the units, the record of what was copied, the lock of a state
// folder, the order of an uninstallation (Deployment), the choice of the cgroup driver, and the
// question whether the host is shutting down. It removes only what it made. It talks to systemd by
// systemctl alone, which also works early and late in a host's life, when there is no bus. The
// container runtime and the networks are ended by functions that the caller passes. cmd/swarm calls
// it. Its only goroutine waits for a daemon that Detach starts, and ends with that daemon or with
// this process.
package install
