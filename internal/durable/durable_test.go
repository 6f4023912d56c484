package durable_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"swarm/internal/durable"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	defer syscall.Umask(syscall.Umask(0o077))
	for _, tc := range []struct {
		text string
		mode os.FileMode
	}{{"first", 0o600}, {"second, longer", 0o644}, {"", 0o600}} {
		if err := durable.WriteFile(file, []byte(tc.text), tc.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != tc.text {
			t.Errorf("got %q, %v, want %q", got, err, tc.text)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != tc.mode {
			t.Errorf("mode: got %v, %v, want %v", info.Mode(), err, tc.mode)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder: %v, %v, want the file alone", left, err)
	}
}

// A content that ends with an error replaces nothing and leaves nothing.
func TestReplace_KeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := durable.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no more")
	err := durable.Replace(file, io.MultiReader(strings.NewReader("new"), iotest.ErrReader(broken)), 0o600)
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "old" {
		t.Errorf("got %q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder: %v, %v, want the file alone", left, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "absent", "key"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: got %v", err)
	}
}
