// Package durable replaces files so that a crash or a power failure leaves either the old content
// or the new one. It is a thin layer over google/renameio, which writes a temporary file, syncs it
// and renames it; this package also syncs the folder, without which the new name may be lost.
//
// It is for what a node cannot lose: its membership, its keys, its program. Files that need to
// survive only this process, such as records of exits, are renamed into place by their owners
// without fsync, which takes milliseconds. A process that is killed during a call may leave the
// temporary file, whose name begins with a dot and the name of the file. The package has no
// goroutines.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// WriteFile is Replace with data.
func WriteFile(file string, data []byte, mode fs.FileMode) error {
	return Replace(file, bytes.NewReader(data), mode)
}

// WriteFileAsOwner is WriteFile for a file of a user that root may write too, with sudo: the new
// file has the owner and the group of the old one, if this user may give files away.
func WriteFileAsOwner(file string, data []byte, mode fs.FileMode) error {
	return replace(file, bytes.NewReader(data), mode, func(next *os.File) { keepOwner(file, next) }, syncFolder)
}

// Replace replaces file, whose folder must exist, by what content yields, with the given mode
// whatever the umask. When it returns nil, the new content and its name are on the disk. When it
// fails, the old file is still there, unless only the last step failed, which syncs the folder. A
// symbolic link is replaced by a file.
func Replace(file string, content io.Reader, mode fs.FileMode) error {
	return replace(file, content, mode, func(*os.File) {}, syncFolder)
}

// replace calls prepare with the new file before that gets its name, and sync with the folder
// afterwards.
func replace(file string, content io.Reader, mode fs.FileMode, prepare func(*os.File), sync func(dir string) error) error {
	dir := filepath.Dir(file)
	next, err := renameio.NewPendingFile(file, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("replace %s: %w", file, err)
	}
	prepare(next.File)
	if _, err := io.Copy(next, content); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", file, err), next.Cleanup())
	}
	if err := next.CloseAtomicallyReplace(); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", file, err), next.Cleanup())
	}
	if err := sync(dir); err != nil {
		return fmt.Errorf("sync the folder of %s: %w", file, err)
	}
	return nil
}

func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
