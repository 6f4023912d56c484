// Package eventually is how tests wait for what announces itself to nobody: the kernel, another process, a goroutine that
// has no channel for them. It asks again and again, within a bound that no machine needs, and runs no goroutine. Tests
// alone call it; within a synctest bubble synctest.Wait says more.
package eventually

import (
	"testing"
	"time"
)

const (
	interval = 5 * time.Millisecond
	// patience is for a machine that is busy with other tests.
	patience = 30 * time.Second
)

// True returns when ok says so, and fails the test when that takes too long.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// Nil returns when do has no error, and fails the test with the last one when that takes too long.
func Nil(t testing.TB, what string, do func() error) {
	t.Helper()
	var last error
	if !poll(func() bool { last = do(); return last == nil }) {
		t.Fatalf("not within %s: %s: %v", patience, what, last)
	}
}

func poll(ok func() bool) bool {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
