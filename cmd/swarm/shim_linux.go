package main

import "swarm/worker/containerd/shim"

// runAsShim runs the shim, and returns true, when the program was started under
// the shim's name.
func runAsShim(args []string) bool {
	if !shim.Invoked(args) {
		return false
	}
	shim.Main()
	return true
}
