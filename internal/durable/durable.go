// Package durable replaces files. After a crash or a power failure, the file has either the old
// content or the new one. The package is a thin layer over google/renameio, which writes a
// temporary file, syncs it to the disk and renames it. This package also syncs the folder: without
// that, a power failure may undo the renaming.
//
// Use the package for files that a node cannot lose: its membership, its keys, its program. Do not
// use it for files that need to survive only the process, such as records of exits. A rename
// without fsync is enough for these, and an fsync takes milliseconds. A process that is killed
// during a call may leave the temporary file. The name of that file is a dot, the name of the
// replaced file, and random digits. The package has no goroutines.
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

// WriteFile replaces file, like Replace, by a file with data.
func WriteFile(file string, data []byte, mode fs.FileMode) error {
	return Replace(file, bytes.NewReader(data), mode)
}

// WriteFileAsOwner is WriteFile for the file of a user who may run this program with sudo. If the
// program runs as root, the new file gets the owner and the group of the old file. Any other user
// owns the file that he writes.
func WriteFileAsOwner(file string, data []byte, mode fs.FileMode) error {
	return replace(file, bytes.NewReader(data), mode, func(next *os.File) { keepOwner(file, next) }, syncFolder)
}

// Replace replaces file by a new file with the content and the mode. It ignores the umask. The
// folder of the file must exist. A symbolic link is replaced by a file. When Replace returns nil,
// the new content and its name are on the disk. When it returns an error, the old file is still
// there, with one exception: if the sync of the folder fails, which is the last step, the new file
// is there.
func Replace(file string, content io.Reader, mode fs.FileMode) error {
	return replace(file, content, mode, func(*os.File) {}, syncFolder)
}

// replace is Replace with two functions: it calls prepare with the new file before it renames the
// file, and sync with the folder after that.
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
