package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func membership() *Membership {
	return &Membership{
		NodeID: "n1", ClusterID: "c1", Manager: true, Addr: "10.0.0.1", DataPathAddr: "10.0.1.1", ListenAddr: "0.0.0.0",
		Port: 2377, ListenPort: 3000, GossipPort: 7946, GossipKeys: [][]byte{{1, 2}, {3}},
		Managers: []Peer{{NodeID: "n1", Addr: "10.0.0.1", Port: 2377}},
	}
}

func TestDisk_RoundTripAndForget(t *testing.T) {
	d := disk{dir: t.TempDir()}
	if m, err := d.load(); m != nil || err != nil {
		t.Fatalf("load of nothing: %v, %v; want neither", m, err)
	}
	want := membership()
	for range 2 { // the second call replaces the first file
		if err := d.save(want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("load after save (-want +got):\n%s", diff)
	}
	// The file has the gossip keys.
	if info, err := os.Stat(d.file()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("stat %s: %v, %v; want mode 0600", d.file(), info.Mode(), err)
	}
	for _, dir := range []string{d.managerDir(), d.workerDir(), filepath.Join(d.dir, "images")} {
		if err := os.MkdirAll(filepath.Join(dir, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second call finds nothing and returns nil
		if err := d.forget(); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]bool{d.file(): false, d.managerDir(): false, d.workerDir(): false, filepath.Join(d.dir, "images"): true} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) == want {
			t.Errorf("after forget, stat %s: %v; want it there: %v", dir, err, want)
		}
	}
}

func TestDisk_DamageIsDataLoss(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "cut": `{"node_id": "n1", "clu`, "not ours": `{}`, "wrong type": `{"port": "x"}`} {
		t.Run(name, func(t *testing.T) {
			d := disk{dir: t.TempDir()}
			if err := os.WriteFile(d.file(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if m, err := d.load(); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "swarm leave --force") {
				t.Errorf("load: %v, %v; want data loss and the way out", m, err)
			}
		})
	}
}

// If the disk is full, the old membership must stay complete.
func TestDisk_FailedSaveKeepsTheOldFile(t *testing.T) {
	d := disk{dir: t.TempDir()}
	if err := d.save(membership()); err != nil {
		t.Fatal(err)
	}
	gone := disk{dir: filepath.Join(d.dir, "gone")}
	if err := gone.save(membership()); err == nil {
		t.Error("save into a folder that is not there: no error")
	}
	if _, err := d.load(); err != nil {
		t.Errorf("load: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "*.tmp")); len(left) > 0 {
		t.Errorf("temporary files stay: %v", left)
	}
}
