//go:build !linux

package main

// components is empty: elsewhere than on Linux swarm is a command line only.
func components() []string { return nil }
