package private

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFolder(t *testing.T) {
	root := t.TempDir()
	for name, was := range map[string]os.FileMode{"absent": 0, "open": 0o755, "traversable": 0o711, "sticky": 0o777 | os.ModeSticky, "private": 0o700} {
		dir := filepath.Join(root, name)
		if was != 0 {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, was); err != nil {
				t.Fatal(err)
			}
		}
		if err := Folder(dir); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ os.ModeDir; got != Mode {
			t.Errorf("%s, of mode %v: got %v, want %v", name, was, got, Mode)
		}
	}
}

func TestFolder_MakesParents(t *testing.T) {
	if err := Folder(filepath.Join(t.TempDir(), "a", "b")); err != nil {
		t.Error(err)
	}
}
