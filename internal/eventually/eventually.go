// Package eventually lets tests wait for changes without a notification: in the kernel, in another
// process, or in a goroutine without a channel to the test. It polls until a limit that no machine
// should need. It runs no goroutine, and only tests call it. In a synctest bubble, use
// synctest.Wait.
package eventually

import (
	"testing"
	"time"
)

const (
	interval = 5 * time.Millisecond
	// timeout is long enough for a machine that is busy with other tests.
	timeout = 30 * time.Second
)

// True returns when ok returns true. It fails the test after 30 seconds.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("not within %s: %s", timeout, what)
	}
}

// Nil returns when do returns nil. After 30 seconds it fails the test with the last error.
func Nil(t testing.TB, what string, do func() error) {
	t.Helper()
	var last error
	if !poll(func() bool { last = do(); return last == nil }) {
		t.Fatalf("not within %s: %s: %v", timeout, what, last)
	}
}

func poll(ok func() bool) bool {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
