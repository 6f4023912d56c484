//go:build linux

// Package containerd is the runtime adapter: it runs the tasks of a worker in containers of
// containerd, either the containerd that swarm brings (package server) or one of the host. Runtime
// implements the worker's interfaces Runtime, Executor and a part of Storage.
//
// On its node it owns the containers in containerd's namespace swarm that carry its label, with
// their snapshots and cgroups; a folder for each task in the state folder; and the tmpfs with
// secrets and configs. Its subpackages own the rest: shimgroup decides which containers share a
// shim, volume owns the volumes, imagecache knows what a container needs of its image, exec runs
// further processes in containers, and image is the node's store of images. Paths inside containers
// and images are looked up by package inroot alone.
//
// The package does not pull images, restart containers or make networks: the caller pulls the image
// and names the path of a network namespace. When containerd has lost a container's exit, the
// package reads the exit from the record that the shim has written (package exit). It marks each
// started container with a file in the task's folder. After a reboot containerd has no task for the
// container, and the mark says that the container has run.
//
// The worker calls it. cmd/swarm calls New, and, when the daemon starts, Recover and EndShims. The
// package itself starts no goroutine; package exec cleans up in the background.
package containerd
