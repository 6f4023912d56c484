//go:build linux

package dev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A folder is made although another process keeps removing those above it while they are empty.
func TestMakeAll_BesideRemovals(t *testing.T) {
	above := filepath.Join(t.TempDir(), "playgrounds")
	dir := filepath.Join(above, "mine")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Remove(above) // It may not be there, or not be empty.
			}
		}
	}()
	for range 2000 {
		if err := makeAll(dir); err != nil {
			t.Error(err)
			break
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-done
	if err := makeAll("/proc/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that cannot be: %v", err)
	}
}
