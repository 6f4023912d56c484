//go:build linux

// Package install puts swarm onto this host and takes it off again. It copies the program into a
// folder where users and systemd find it, writes the units that run it if systemd is the init,
// starts a daemon with or without systemd, replaces the program in an upgrade, and removes the
// traces of a daemon.
//
// The package owns the text of the units, the record of the program that it has copied, the lock of
// a state folder, the order of an uninstallation (Deployment), the choice of the cgroup driver, and
// the question whether the host is shutting down. It removes only files that it has made. It talks
// to systemd only by systemctl, which also works during boot and shutdown, when there is no bus.
// The caller passes functions that end the container runtime and remove the networks. cmd/swarm
// calls this package. Its only goroutine waits for a daemon that Detach starts, and ends with that
// daemon or with this process.
package install
