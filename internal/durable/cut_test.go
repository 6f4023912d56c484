//go:build linux

package durable

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cutVariable names, to a copy of this test program, the file that it replaces until it is killed.
const cutVariable = "DURABLE_CUT_FILE"

// halfContent yields half of a content, says so on the standard output, and then nothing.
type halfContent struct{ said bool }

func (h *halfContent) Read(p []byte) (int, error) {
	if h.said {
		if _, err := os.Stdout.WriteString("half\n"); err != nil {
			return 0, err
		}
		<-time.After(time.Hour) // the process is killed before
	}
	h.said = true
	return copy(p, "new content, first half"), nil
}

// TestMain lets a copy of this program run a Replace that never ends.
func TestMain(m *testing.M) {
	if file := os.Getenv(cutVariable); file != "" {
		err := Replace(file, &halfContent{}, 0o600)
		panic(err) // it never returns
	}
	os.Exit(m.Run())
}

// A process that is killed in the middle of a Replace leaves the old file whole, and the next
// Replace succeeds.
func TestReplace_Killed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), cutVariable+"="+file)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("half\n"))); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	wantContent(t, file, "old")
	if err := WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantContent(t, file, "new")
}

// A disk that is full in the middle of a Replace leaves the old file whole, and no temporary file.
func TestReplace_DiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "key")
	if err := WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(file, bytes.Repeat([]byte("new"), 1<<16), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	wantContent(t, file, "old")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder: %v, %v, want the file alone", left, err)
	}
}

// The folder is synced when the file has its name, and an error of that is reported.
func TestReplace_SyncsTheFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	broken := errors.New("no sync")
	synced := ""
	err := replace(file, strings.NewReader("new"), 0o600, func(*os.File) {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("before it is written, the file is there: %v", err)
		}
	}, func(dir string) error {
		synced = dir
		wantContent(t, file, "new")
		return broken
	})
	if !errors.Is(err, broken) || synced != dir {
		t.Errorf("synced %q, got %v", synced, err)
	}
	if err := syncFolder(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: got %v", err)
	}
}

func TestWriteFileAsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	file := filepath.Join(t.TempDir(), "config.json")
	if err := WriteFileAsOwner(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if err := WriteFileAsOwner(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantContent(t, file, "new")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 5678 {
		t.Errorf("the new file belongs to %d:%d, want 1234:5678", st.Uid, st.Gid)
	}
}

func wantContent(t *testing.T, file, want string) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", filepath.Base(file), got, err, want)
	}
}
