package exit

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRead: exit records, which a shim writes that may be of another build, on a disk that may have
// failed.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"status":1,"at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := Dir(t.TempDir())
		path, err := d.path("swarm", "c1")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = d.Read("swarm", "c1")
	})
}
