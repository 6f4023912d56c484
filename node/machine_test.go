package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachineID(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ids := map[string]string{}
	id := func(own, stateDir string, files ...string) string {
		t.Helper()
		got, err := machineID(own, stateDir, files...)
		if err != nil || len(got) != 32 {
			t.Fatalf("machineID(%q, %q, %q): got %q, %v", own, stateDir, files, got, err)
		}
		return got
	}
	different := func(what, id string) {
		t.Helper()
		if former, ok := ids[id]; ok {
			t.Errorf("%s has the ID of %s", what, former)
		}
		ids[id] = what
	}
	absent, first := filepath.Join(dir, "absent"), write("first", "11112222\n")
	different("the operating system's ID", id("", "/state", absent, first))
	different("another state folder", id("", "/state2", first))
	different("a given ID", id("mine", "/state", first))
	if a, b := id("11112222", "/state"), id("", "/state", first); a != b {
		t.Errorf("one ID has two hashes: %s, %s", a, b)
	}
	// Before the end of the first boot, and without any ID, the one in the state folder is used. It
	// is made once.
	early := write("early", "uninitialized\n")
	kept := id("", dir, early)
	different("a kept ID", kept)
	if again := id("", dir, absent); again != kept {
		t.Errorf("the kept ID changes from %s to %s", kept, again)
	}
	if info, err := os.Stat(filepath.Join(dir, "machine-id")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of the kept ID: %v, %v", info, err)
	}
	if _, err := machineID("", filepath.Join(dir, "no folder")); err == nil {
		t.Error("an ID that cannot be kept is used")
	}
}
