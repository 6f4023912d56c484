package seal

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLoadRing_MakesKeysOnceAndKeepsThemPrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if _, err := LoadRing(file); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadRing(file); err != nil {
		t.Fatal(err)
	}
	again, _ := os.ReadFile(file)
	if string(first) != string(again) {
		t.Error("the keys on disk are replaced at the second start: the log could not be read any more")
	}
	entries, _ := os.ReadDir(filepath.Dir(file))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || len(entries) != 1 {
		t.Errorf("mode %v, %v, with %d files in the folder; want 0600 and one file", info.Mode(), err, len(entries))
	}
}
