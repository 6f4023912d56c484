//go:build linux

package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"swarm/containerd/inroot"
	"swarm/internal/private"
)

// Place is the data folder of a volume, or a file or folder below it. Containers write below Data,
// so only package inroot may look up Sub. The container's record stores the fields.
type Place struct {
	// Data is the folder of the volume.
	Data string
	// Sub is a path below Data. Empty stands for Data itself.
	Sub string `json:",omitempty"`
	// Make says that Sub is a folder, which is made when it is missing.
	Make bool `json:",omitempty"`
}

// open returns a handle of the place. It returns ErrInvalidArgument when the place does not exist
// or does not lie below Data.
func (p Place) open() (*os.File, error) {
	var f *os.File
	var err error
	if p.Make {
		f, err = inroot.MkdirAll(p.Data, p.Sub)
	} else {
		f, err = inroot.Open(p.Data, p.Sub)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %w", p.Sub, p.Data, err, errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// makePlace makes a place of a volume. The folder above the data is for root alone, because the
// files that containers leave in the data may have any mode.
func makePlace(p Place) error {
	if err := private.Folder(filepath.Dir(p.Data)); err != nil {
		return err
	}
	if err := os.Mkdir(p.Data, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if p.Sub == "" {
		return nil
	}
	f, err := p.open()
	if err != nil {
		return err
	}
	return f.Close()
}

// folder opens the place, which is a folder, and makes it when it is missing.
func (p Place) folder() (*os.File, error) {
	return inroot.MkdirAll(p.Data, p.Sub)
}

// empty reports whether the place has no entry. It reads one entry at most, because a container may
// have made millions.
func (p Place) empty() (bool, error) {
	dir, err := p.folder()
	if err != nil {
		return false, err
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
