//go:build linux

// Package install puts swarm onto this host and takes it off again: the program in a folder where every user and systemd
// find it, and, where systemd is the init, the units that run it.
//
// It owns the text of the units, the record of what was copied, and the question whether the host is going down. It
// refuses to guess: what it did not make it does not remove. It talks to systemd by systemctl alone, which also works
// early and late in a host's life, when there is no bus. Called by cmd/swarm; no goroutines.
package install
