//go:build linux

package footprint

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestClean_OnlyWhatIsAsTheFileIs(t *testing.T) {
	const smaps = `00400000-016d3000 r-xp 00000000 fe:00 7654    /opt/my programs/swarm
Size:              19276 kB
Rss:               16000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
016d3000-0355a000 r--p 012d3000 fe:00 7654    /opt/my programs/swarm
Anonymous:             4 kB
0355a000-03605000 rw-p 0315a000 fe:00 7654    /opt/my programs/swarm
Anonymous:             0 kB
03605000-05654000 rw-p 00000000 00:00 0
Anonymous:             0 kB
05654000-05655000 r--p 00000000 fe:00 7655    /opt/my programs/swarm.db
Anonymous:             0 kB
05655000-05657000 r--p 03150000 fe:00 7654    /opt/my programs/swarm
Anonymous:             0 kB
7ffc1a000000-7ffc1a021000 rw-p 00000000 00:00 0    [stack]
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x16d3000}, {0x5655000, 0x5657000}}
	if diff := cmp.Diff(want, clean(smaps, "/opt/my programs/swarm"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

// The test's own program is forgotten, and goes on.
func TestForget_TheProgramGoesOn(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if len(clean(string(smaps), program)) == 0 {
		t.Errorf("nothing of %s is found to forget in\n%s", program, smaps)
	}
	Forget()
	if got := strings.Repeat("on and ", 2); got != "on and on and " {
		t.Errorf("got %q", got)
	}
}

// A database that is mapped stays readable, and its pages are no longer counted as this process's.
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
	if !slices.Contains(shared(string(maps)), mapping{at, at + size}) {
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
