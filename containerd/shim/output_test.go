//go:build linux

package shim

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"swarm/internal/eventually"
)

// startOutput diverts a file and returns the container's end of the pipe.
func startOutput(t *testing.T, file string) (*output, *os.File) {
	t.Helper()
	return startOutputOf(t, &taskapi.CreateTaskRequest{Bundle: t.TempDir(), Stdout: file})
}

func startOutputOf(t *testing.T, req *taskapi.CreateTaskRequest) (*output, *os.File) {
	t.Helper()
	file := req.Stdout
	outs, err := divert(req)
	if err != nil {
		t.Fatal(err)
	}
	if len(outs) != 1 || req.Stdout == file {
		t.Fatalf("diverted %d streams, stdout to %s", len(outs), req.Stdout)
	}
	o := outs[0]
	var w *os.File
	if req.Stdout != "" {
		w, err = os.OpenFile(req.Stdout, os.O_WRONLY, 0)
	} else { // as runc inherits it
		var fd int
		fd, err = unix.FcntlInt(o.keep.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		w = os.NewFile(uintptr(fd), "container")
	}
	if err != nil {
		t.Fatal(err)
	}
	o.begin()
	go o.run()
	t.Cleanup(func() {
		_ = w.Close()
		<-o.done
	})
	return o, w
}

func emptyFile(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "stdout")
	if err := os.WriteFile(file, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOutput_CarriesAll(t *testing.T) {
	for name, req := range map[string]*taskapi.CreateTaskRequest{"pipe": {}, "named pipe": {Terminal: true}} {
		t.Run(name, func(t *testing.T) {
			file := emptyFile(t, t.TempDir())
			req.Bundle, req.Stdout = t.TempDir(), file
			o, w := startOutputOf(t, req)
			want := bytes.NewBufferString("before\n")
			for i := range 50_000 {
				line := fmt.Sprintf("line %d\n", i)
				want.WriteString(line)
				if _, err := w.WriteString(line); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			<-o.done
			got, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Fatalf("got %d bytes, want %d; %v", len(got), want.Len(), err)
			}
		})
	}
}

// smallDisk mounts a file system with one file that fills it.
func smallDisk(t *testing.T) (dir, filler string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, filepath.Join(dir, "filler")
}

func fill(t *testing.T, filler string) {
	t.Helper()
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// A full disk neither stops the writer nor damages a line, and lost lines are counted.
func TestOutput_DiskFull(t *testing.T) {
	for _, lines := range []int{1000, 200_000} { // the first fits into what is held
		t.Run(fmt.Sprint(lines), func(t *testing.T) {
			dir, filler := smallDisk(t)
			file := emptyFile(t, dir)
			o, w := startOutput(t, file)
			fill(t, filler)
			for i := range lines {
				if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			eventually.True(t, "what was held is written", func() bool {
				text, err := os.ReadFile(file)
				return err == nil && (bytes.Contains(text, []byte("missing here")) || bytes.Contains(text, fmt.Appendf(nil, "line %d\n", lines-1)))
			})
			fmt.Fprintln(w, "last")
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			<-o.done
			checkOutput(t, file, lines)
		})
	}
}

func checkOutput(t *testing.T, file string, lines int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if all[0] != "before" || all[len(all)-1] != "last" {
		t.Fatalf("first line %q, last %q", all[0], all[len(all)-1])
	}
	next, lost := 0, 0
	for _, line := range all[1 : len(all)-1] {
		var n int
		if _, err := fmt.Sscanf(line, "swarm: %d lines are missing", &n); err == nil {
			next += n
			lost += n
			continue
		}
		if line != fmt.Sprintf("line %d", next) {
			t.Fatalf("got %q, want line %d", line, next)
		}
		next++
	}
	if next != lines || lost == 0 && lines > 100_000 || lost > 0 && lines < 10_000 {
		t.Errorf("%d lines are accounted for, of %d; %d lost", next, lines, lost)
	}
}

func TestOutput_EndsWithoutRoom(t *testing.T) {
	dir, filler := smallDisk(t)
	o, w := startOutput(t, emptyFile(t, dir))
	fill(t, filler)
	fmt.Fprintln(w, strings.Repeat("x", 10_000))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	close(gone)
	o.end(gone)
}

// Only a command that creates a container gets the pipes of its outputs.
func TestRedirect(t *testing.T) {
	r := newRecorder(t.Context())
	dir := t.TempDir()
	for _, name := range []string{"stdout", "stderr"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	req := &taskapi.CreateTaskRequest{ID: "c1", Bundle: dir, Stdout: filepath.Join(dir, "stdout"), Stderr: filepath.Join(dir, "stderr")}
	w := r.add(req.ID, "")
	var err error
	if w.output, err = divert(req); err != nil || req.Stdout != "" || req.Stderr != "" || len(w.output) != 2 {
		t.Fatalf("diverted %d streams of %v: %v", len(w.output), req, err)
	}
	for _, o := range w.output {
		defer o.close()
	}
	for _, c := range []struct {
		args       []string
		redirected bool
	}{
		{[]string{"runc", "--root", "/r", "create", "--bundle", dir, "c1"}, true},
		{[]string{"runc", "--root", "/r", "create", "--bundle", dir, "c2"}, false},
		{[]string{"runc", "--root", "/r", "start", "c1"}, false},
	} {
		cmd := &exec.Cmd{Args: c.args}
		r.redirect(cmd)
		if got := cmd.Stdout == w.output[0].keep && cmd.Stderr == w.output[1].keep; got != c.redirected {
			t.Errorf("%q: redirected %v, want %v", c.args, got, c.redirected)
		}
	}
}
