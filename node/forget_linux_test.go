package node

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"swarm/internal/tree/treetest"
)

// A node can leave its cluster even if a container has nested folders very deeply.
func TestDisk_ForgetsVolumesOfAnyDepth(t *testing.T) {
	treetest.FewDescriptors(t)
	d := disk{dir: t.TempDir()}
	if err := os.Mkdir(d.workerDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	treetest.Nest(t, d.workerDir(), 1000)
	if err := d.forget(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(d.workerDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the volumes are still there: %v", err)
	}
}
