//go:build linux

package binary

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// manifest says which files a build's folder must hold. The files and the manifest are not synced
// to the disk, and therefore not written by package durable. Instead the digests are computed again
// once after each boot, which finds files that a power cut has damaged and costs less.
type manifest struct {
	BootID string      `json:"boot_id"`
	Files  []fileEntry `json:"files"`
}

type fileEntry struct {
	Name    string    `json:"name"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mod_time"`
	SHA256  string    `json:"sha256"`
}

// add copies one program into the folder.
func (m *manifest) add(dir, name string, from io.Reader) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, hash), from)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	return m.enter(dir, name, hex.EncodeToString(hash.Sum(nil)))
}

// addLink enters a second name of a program that was added before.
func (m *manifest) addLink(dir, name, of string) error {
	for _, f := range m.Files {
		if f.Name == of {
			return m.enter(dir, name, f.SHA256)
		}
	}
	return fmt.Errorf("link %s: no %s", name, of)
}

func (m *manifest) enter(dir, name, digest string) error {
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	m.Files = append(m.Files, fileEntry{Name: name, Size: info.Size(), ModTime: info.ModTime(), SHA256: digest})
	return nil
}

// write puts the manifest into the folder, valid for the current boot.
func (m *manifest) write(dir string) error {
	id, err := bootID()
	if err != nil {
		return err
	}
	m.BootID = id
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+manifestName)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, manifestName))
}

// verifySet returns nil when the folder holds the files that its manifest names, unchanged.
func verifySet(set Set) error {
	data, err := os.ReadFile(filepath.Join(set.Dir, manifestName))
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	id, err := bootID()
	if err != nil {
		return err
	}
	sameBoot := id == m.BootID
	seen := make(map[string]bool)
	for _, f := range m.Files {
		if err := f.verify(set.Dir, sameBoot); err != nil {
			return err
		}
		seen[filepath.Join(set.Dir, f.Name)] = true
	}
	if !seen[set.Program] || !seen[set.Shim] || !seen[set.Runc] {
		return fmt.Errorf("manifest of %s is incomplete", set.Dir)
	}
	if sameBoot {
		return nil
	}
	return m.write(set.Dir)
}

// verify returns an error unless the file in dir is the one that was installed. Within one boot an
// unchanged size and time are enough. After a reboot verify reads the file and compares the digest.
func (f fileEntry) verify(dir string, sameBoot bool) error {
	path := filepath.Join(dir, f.Name)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o100 == 0 || info.Size() != f.Size {
		return fmt.Errorf("%s is not as it was installed", path)
	}
	if sameBoot && info.ModTime().Equal(f.ModTime) {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%s has digest %s, want %s", path, got, f.SHA256)
	}
	return nil
}

func openRunc(src Source) (io.ReadCloser, error) {
	if src.Runc != nil {
		return io.NopCloser(bytes.NewReader(src.Runc)), nil
	}
	return os.Open(src.RuncPath)
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}
