//go:build linux

// Package containerd runs tasks in containers: the worker's Runtime and Executor as a client of containerd, the one
// that swarm carries (package server) or one that is on the host already.
//
// It owns, of one node: the containers in containerd's namespace swarm that carry its label, their snapshots, cgroups
// and shim groups, the folder of each task below the state folder, the volumes, and the tmpfs with secrets and configs.
// A part of a volume (a subpath, or a bind source in a volume) reaches its container by way of a staging folder below the
// run folder, so that no other container can lead it out of the volume. What containers and images hold is looked up by
// package inroot alone.
//
// It refuses to pull (package image does), to restart, and to make networks: it is handed a namespace's path. What
// containerd forgets it reads from the shims' exit records (package exit); whether a container has ever been started it
// remembers itself, in the task's folder, so that after a reboot a container that ran is not taken for one that never did.
//
// The worker calls it, cmd builds it and calls Recover when the daemon starts. It runs no goroutine of its own; every call
// is one of the caller's.
package containerd
