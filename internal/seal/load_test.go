package seal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestLoadRing_MakesKeysOnceAndKeepsThemPrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if _, err := LoadRing(file, true); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadRing(file, true); err != nil {
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

// A key file that is missing or damaged is never replaced, and the error names it.
func TestLoadRing_NamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if _, err := LoadRing(file, false); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), file+" is missing") {
		t.Errorf("missing: got %v, want data loss that names %s", err, file)
	}
	for _, content := range []string{"", "x", "-----BEGIN SWARM DATA KEYS-----\nLocked: no\n\nAAAA\n-----END SWARM DATA KEYS-----\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadRing(file, true); !errdefs.IsDataLoss(err) || !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%q: got %v, want data loss that names %s", content, err, file)
		}
	}
}
