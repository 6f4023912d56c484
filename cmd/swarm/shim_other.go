//go:build !linux

package main

// runAsShim returns false: only Linux has shims.
func runAsShim([]string) bool { return false }
