// Package durable replaces files so that a crash or a power failure leaves either the old content
// or the new one. It is for what a node cannot lose: its membership, its keys, its program. Files
// that need to survive only this process, such as records of exits, are renamed into place by their
// owners without fsync, which takes milliseconds. The package has no goroutines.
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

// Replace replaces file, whose folder must exist, by what content yields, with the given mode
// whatever the umask. When it returns nil, the new content and its name are on the disk. When it
// fails, the old file is still there, unless only the last step failed, which syncs the folder.
func Replace(file string, content io.Reader, mode fs.FileMode) error {
	dir := filepath.Dir(file)
	next, err := renameio.NewPendingFile(file, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("replace %s: %w", file, err)
	}
	if _, err := io.Copy(next, content); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", file, err), next.Cleanup())
	}
	if err := next.CloseAtomicallyReplace(); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", file, err), next.Cleanup())
	}
	folder, err := os.Open(dir) // renameio does not sync it
	if err != nil {
		return fmt.Errorf("sync the folder of %s: %w", file, err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}
