//go:build linux

package shim

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newTestReader(t *testing.T) (r *reader, w *os.File) {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	w = os.NewFile(uintptr(ends[1]), "pipe")
	r, err := newReader(ends[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(r.Close(), w.Close()) })
	return r, w
}

func TestReader_ReadsWhatComes(t *testing.T) {
	r, w := newTestReader(t)
	buf := make([]byte, 16)
	if n, err := r.TryRead(buf); n != 0 || err != nil {
		t.Errorf("an empty pipe: got %d, %v, want 0 and no error", n, err)
	}
	for _, text := range []string{"a", "bc", "def"} {
		got := make(chan string)
		go func() {
			n, err := r.Read(buf)
			if err != nil {
				t.Error(err)
			}
			got <- string(buf[:n])
		}()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if got := <-got; got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Read(buf); !errors.Is(err, io.EOF) {
			t.Errorf("the end: got %v, want io.EOF", err)
		}
	}
}

func TestReader_WaitGivesUp(t *testing.T) {
	r, w := newTestReader(t)
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after a deadline: got %v", err)
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("after a deadline that is taken back: got %d, %v", n, err)
	}
	ended := make(chan error)
	go func() { ended <- r.wait() }()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after Close: got %v", err)
	}
}
