//go:build linux

package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"swarm/internal/tree/treetest"
)

func TestRemoveAll_AnyDepth(t *testing.T) {
	treetest.FewDescriptors(t)
	root := t.TempDir()
	tree := filepath.Join(root, "tree")
	outside := filepath.Join(root, "outside")
	for _, dir := range []string{tree, outside} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	treetest.Nest(t, outside, 1)
	treetest.Nest(t, tree, 5000)
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(tree, "d", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tree, ".moved-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(tree, "d", "d", "link")); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree is there still: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(outside, "d", "f")); err != nil {
		t.Errorf("what a link led to was removed: %v", err)
	}
	if err := RemoveAll(t.Context(), tree); err != nil {
		t.Errorf("removed again: %v", err)
	}
	if err := RemoveAll(t.Context(), filepath.Join(tree, "below")); err != nil {
		t.Errorf("below what is not there: %v", err)
	}
	link := filepath.Join(root, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(t.Context(), link); err != nil {
		t.Error(err)
	}
	if err := RemoveBelow(t.Context(), outside); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("an emptied folder has %v, %v", left, err)
	}
}

func TestRemoveAll_EndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	treetest.Nest(t, dir, 100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := RemoveAll(ctx, dir)
	if !errors.Is(err, context.Canceled) || len(err.Error()) > len(dir)+256 {
		t.Errorf("got %v, want one short line of a cancelled context", err)
	}
}

func TestSize(t *testing.T) {
	treetest.FewDescriptors(t)
	dir := t.TempDir()
	if size, err := Size(t.Context(), filepath.Join(dir, "absent")); size != 0 || err != nil {
		t.Errorf("a folder that is not there: got %d, %v", size, err)
	}
	empty, err := Size(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if size, err := Size(t.Context(), dir); err != nil || size-empty < 1<<20 || size-empty > 1<<20+64<<10 {
		t.Errorf("got %d more, %v, want 1 MiB", size-empty, err)
	}
	// A name that is elsewhere has its share: a third of 1 MiB.
	outside := filepath.Join(t.TempDir(), "c")
	if err := os.Link(filepath.Join(dir, "a"), outside); err != nil {
		t.Fatal(err)
	}
	if size, err := Size(t.Context(), dir); err != nil || size-empty < 600<<10 || size-empty > 700<<10+64<<10 {
		t.Errorf("with a name outside: got %d more, %v, want 2/3 MiB", size-empty, err)
	}
	if err := os.Remove(outside); err != nil {
		t.Fatal(err)
	}
	treetest.Nest(t, dir, 5000)
	if size, err := Size(t.Context(), dir); !errors.Is(err, ErrPartial) || size < 1<<20 {
		t.Errorf("a deep tree: got %d, %v, want a part", size, err)
	}
	if err := RemoveAll(t.Context(), dir); err != nil {
		t.Error(err)
	}
}
