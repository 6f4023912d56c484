//go:build linux

package footprint

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

func TestConstant(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-01000000 r-xp 00000000 fe:00 77    /bin/swarm":   true,
		"01000000-02000000 r--p 00c00000 fe:00 77    /bin/swarm":   true,
		"02000000-03000000 rw-p 01c00000 fe:00 77    /bin/swarm":   false,
		"02000000-03000000 r--s 01c00000 fe:00 77    /bin/swarm":   false,
		"02000000-03000000 r--p 00000000 fe:00 78    /lib/libc.so": false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":              false,
		"": false,
	} {
		start, size, ok := constant(line, "/bin/swarm")
		if ok != want || ok && (start == 0 || size == 0) {
			t.Errorf("constant(%q): got %#x, %#x, %v, want %v", line, start, size, ok, want)
		}
	}
}

// The program goes on, with fewer of its pages.
func TestTrim(t *testing.T) {
	before := fileRSS(t)
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if after := fileRSS(t); after >= before {
		t.Errorf("file-backed RSS: got %d kB, want less than %d", after, before)
	}
}

// Keep trims a process that has been quiet for a period, and ends with its context.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*period)
		defer cancel()
		before := fileRSS(t)
		Keep(ctx, func(err error) { t.Error(err) })
		if after := fileRSS(t); after >= before {
			t.Errorf("file-backed RSS: got %d kB, want less than %d", after, before)
		}
	})
}

func fileRSS(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("this kernel does not tell RssFile")
	return 0
}
