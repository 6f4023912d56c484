//go:build linux

package volume

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"swarm/internal/disk"
	"swarm/internal/durable"
	"swarm/internal/private"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// importPrefix begins the names of folders in which volumes are made from archives.
	importPrefix = ".import-"
	// maxWindow limits the memory that an archive may demand.
	maxWindow = 128 << 20
)

// Import makes a volume from an archive of Export. The volume appears when it is complete: a
// broken or shortened archive changes nothing. With replace it takes the place of a volume of that
// name which no task uses.
//
// It returns ErrInvalidArgument if the archive is broken, ErrAlreadyExists if a volume has the name
// and replace is not set, ErrFailedPrecondition if tasks use that one, and the error of Deps.Room
// when the disk fills.
func (s *Store) Import(ctx context.Context, v *swarmv1.Volume, replace bool, r io.Reader) (*swarmv1.Volume, error) {
	name := v.GetName()
	if err := s.importable(name, replace); err != nil { // before anything is unpacked
		return nil, err
	}
	if err := private.Folder(s.cfg.Dir); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(s.cfg.Dir, importPrefix)
	if err != nil {
		return nil, fmt.Errorf("import volume %s: %w", name, err)
	}
	after := context.WithoutCancel(ctx)
	made := filepath.Join(temp, name)
	if err := errors.Join(os.Mkdir(made, private.Mode), os.Mkdir(filepath.Join(made, dataFolder), 0o755)); err != nil {
		return nil, errors.Join(err, tree.RemoveAll(after, temp))
	}
	n := Named{Name: name, Labels: v.GetLabels(), Created: time.Now().UTC().Truncate(time.Second)}
	err = disk.WhileRoom(ctx, s.room, func(ctx context.Context) error {
		return unpack(ctx, &unpacker{data: filepath.Join(made, dataFolder)}, r)
	})
	if err == nil {
		var data []byte
		if data, err = json.Marshal(n); err == nil {
			err = durable.WriteFile(filepath.Join(made, infoFile), data, 0o600)
		}
	}
	if err == nil {
		err = s.place(made, name, replace)
	}
	if err = errors.Join(err, tree.RemoveAll(after, temp)); err != nil {
		return nil, fmt.Errorf("import volume %s: %w", name, err)
	}
	s.noteChange()
	return s.describe(n), nil
}

// unpack unpacks an archive into the empty folder of u, which no container sees.
func unpack(ctx context.Context, u *unpacker, r io.Reader) error {
	plain, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer plain.Close()
	_, err = archive.Apply(ctx, u.data, plain,
		// In an image, a name that begins with .wh. removes a file. In a volume it is a name.
		archive.WithConvertWhiteout(func(*tar.Header, string) (bool, error) { return true, nil }),
		archive.WithFilter(u.entry))
	if err == nil {
		err = u.finish()
	}
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // The checksum is behind the last file.
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return err
	case err != nil:
		return errdefs.ErrInvalidArgument.WithMessage("the archive is broken or not complete: " + err.Error())
	case u.top == nil:
		return errdefs.ErrInvalidArgument.WithMessage("the archive is not one of `swarm volume backup`: it has no entry for the volume's folder")
	}
	if err := os.Chown(u.data, u.top.Uid, u.top.Gid); err != nil {
		return err
	}
	return unix.Chmod(u.data, uint32(u.top.Mode)&0o7777)
}

// importable returns an error if a volume has the name, unless it may be replaced.
func (s *Store) importable(name string, replace bool) error {
	had, err := s.load(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !replace:
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("volume %s exists already: choose another name, or replace its files with --force", name))
	case len(had.Options) > 0:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the files of volume %s are on %s: restore them there", name, had.Options["device"]))
	}
	return s.unused(name)
}

// place gives a complete volume its place. A volume that it replaces is left at made.
func (s *Store) place(made, name string, replace bool) error {
	defer s.locks.lock(name)()
	if err := s.importable(name, replace); err != nil {
		return err
	}
	if _, err := os.Lstat(s.dir(name)); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(made, s.dir(name))
	}
	return unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, s.dir(name), unix.RENAME_EXCHANGE)
}
