//go:build linux

package tempmount_test

import (
	"os"
	"path/filepath"
	"testing"

	"swarm/containerd/tempmount"
)

// A process that is killed between making a folder and mounting something on it leaves the folder.
func TestUse_RemovesFoldersOfAnEarlierProcess(t *testing.T) {
	dir := t.TempDir()
	empty, full := filepath.Join(dir, "containerd-mount1"), filepath.Join(dir, "containerd-mount2")
	for _, d := range []string{empty, filepath.Join(full, "data")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	warned := 0
	if err := tempmount.Use(dir, func(err error) { warned++ }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(empty); !os.IsNotExist(err) {
		t.Errorf("empty folder: got %v, want it removed", err)
	}
	if _, err := os.Stat(filepath.Join(full, "data")); err != nil || warned != 1 {
		t.Errorf("folder with data: got %v and %d warnings, want it kept and one warning", err, warned)
	}
}
