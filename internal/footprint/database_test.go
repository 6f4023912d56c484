//go:build linux

package footprint

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mapped database stays readable, and its pages no longer count as memory of this process.
func TestFree_DatabasesStay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	const size = 4 << 20
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(data)
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	at := uintptr(unsafe.Pointer(&data[0]))
	if !slices.Contains(databaseMappings(string(maps)), mapping{at, at + size}) {
		t.Errorf("the mapping at %x is not found in\n%s", at, maps)
	}
	if got := bytes.Count(data, []byte("x")); got != size {
		t.Errorf("%d bytes before", got)
	}
	Free()
	if got := bytes.Count(data, []byte("x")); got != size {
		t.Errorf("%d bytes after", got)
	}
}
