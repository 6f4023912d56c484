//go:build linux

package dev_test

func standIn([]string) bool { return false }
