package exit

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestDir_KeepsTheNewestRecordUntilItIsRemoved(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "exits"))
	if _, err := d.Read("swarm", "c1"); !errdefs.IsNotFound(err) {
		t.Fatalf("read before write: got %v, want not found", err)
	}
	want := Record{Status: 137, ExitedAt: time.Unix(1, 5).UTC(), OOM: true}
	for _, r := range []Record{{Status: 1}, want} {
		if err := d.Write("swarm", "c1", r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.Read("swarm", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	names, err := d.List("swarm")
	if diff := cmp.Diff([]string{"c1"}, names); diff != "" || err != nil {
		t.Errorf("list: %v (-want +got):\n%s", err, diff)
	}
	for range 2 {
		if err := d.Remove("swarm", "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := d.List("swarm"); len(names) != 0 || err != nil {
		t.Errorf("list after remove: got %v, %v, want none", names, err)
	}
	left, err := os.ReadDir(filepath.Join(string(d), "swarm"))
	if err != nil || len(left) != 0 {
		t.Errorf("files left: got %v, %v, want none", left, err)
	}
}

func TestDir_RefusesNamesThatLeaveTheFolder(t *testing.T) {
	d := Dir(t.TempDir())
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden"} {
		if err := d.Write("swarm", name, Record{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("write %q: got %v, want invalid argument", name, err)
		}
		if _, err := d.Read(name, "c1"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("read namespace %q: got %v, want invalid argument", name, err)
		}
	}
}

func TestDir_ReportsACorruptRecord(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Write("swarm", "c1", Record{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(string(d), "swarm", "c1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read("swarm", "c1"); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("corrupt record: got %v, want a decoding error", err)
	}
}
