//go:build linux

package volume

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/disk"
	"swarm/internal/durable"
	"swarm/internal/private"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
)

// A volume that moves to this node is received in a folder beside the volumes, which Recover leaves
// in place. It has two trees at most. base is the result of the last archive: it has the file
// completeFile if the archive was complete. next is the tree that the present archive makes; it
// shares the files that have not changed with base by hard links.
const (
	movePrefix   = ".move-"
	moveFile     = "move"     // the id of the move
	baseFolder   = "base"     // these have the data (dataFolder) and the files below
	nextFolder   = "next"     //
	receivedFile = "received" // the list of the files, see received
	bootFile     = "boot"     // the boot of the host in which the tree was made
	completeFile = "complete" // the tree is complete and on the disk
)

func (s *Store) moveDir(name string) string { return filepath.Join(s.cfg.Dir, movePrefix+name) }

// SendMoved implements engine.VolumeMover.
func (s *Store) SendMoved(ctx context.Context, name string, unused bool, list io.Reader, w io.Writer) error {
	if unused {
		if err := s.unused(name); err != nil {
			return err
		}
	}
	had, err := parseReceived(list)
	if err != nil {
		return fmt.Errorf("list of received files of volume %s: %w", name, err)
	}
	return s.export(name, w, exporter{ctx: ctx, move: true, received: had})
}

// begin notes the time, and makes the kernel note later writes to the files of a folder (see
// received). On a file system without a disk it cannot, so all files are sent.
func (e *exporter) begin(top *os.File) error {
	e.began = time.Now()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(top.Fd()), &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		e.received = received{}
		return nil
	}
	return unix.Syncfs(int(top.Fd()))
}

// ListReceived implements engine.VolumeMover.
func (s *Store) ListReceived(_ context.Context, name, move string, w io.Writer) error {
	defer s.locks.lock(movePrefix + name)()
	if placed, err := s.placed(name, move); placed || err != nil {
		return err
	}
	base, err := s.openMove(name, move)
	if err != nil || base == "" {
		return err
	}
	f, err := os.Open(filepath.Join(base, receivedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// openMove prepares the folder of a move. It removes what belongs to another move, and returns the
// tree of the last archive, or "". The caller holds the lock of the move.
func (s *Store) openMove(name, move string) (base string, err error) {
	dir := s.moveDir(name)
	if id, err := os.ReadFile(filepath.Join(dir, moveFile)); err != nil || string(id) != move {
		if err := tree.RemoveAll(context.Background(), dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := errors.Join(private.Folder(s.cfg.Dir), private.Folder(dir)); err != nil {
			return "", err
		}
		return "", durable.WriteFile(filepath.Join(dir, moveFile), []byte(move), 0o600)
	}
	base, next := filepath.Join(dir, baseFolder), filepath.Join(dir, nextFolder)
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		// The first archive was interrupted: go on from what it has brought.
		if err := os.Rename(next, base); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		} else if err != nil {
			return "", err
		}
	}
	if err := tree.RemoveAll(context.Background(), next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if isComplete(base) || inThisBoot(base) {
		return base, nil
	}
	// The host has lost its power, and maybe the content of files with it.
	return "", tree.RemoveAll(context.Background(), base)
}

func isComplete(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, completeFile))
	return err == nil
}

func inThisBoot(dir string) bool {
	then, err := os.ReadFile(filepath.Join(dir, bootFile))
	return err == nil && string(then) == bootID()
}

// bootID returns what differs between the boots of the host.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// ReceiveMoved implements engine.VolumeMover.
func (s *Store) ReceiveMoved(ctx context.Context, name, move string, r io.Reader) (placed bool, err error) {
	defer s.locks.lock(movePrefix + name)()
	if placed, err := s.placed(name, move); placed || err != nil {
		return placed, err
	}
	base, err := s.openMove(name, move)
	if err != nil {
		return false, fmt.Errorf("receive volume %s: %w", name, err)
	}
	next := filepath.Join(s.moveDir(name), nextFolder)
	err = errors.Join(os.Mkdir(next, private.Mode), os.Mkdir(filepath.Join(next, dataFolder), 0o755),
		os.WriteFile(filepath.Join(next, bootFile), []byte(bootID()), 0o600))
	if err != nil {
		return false, fmt.Errorf("receive volume %s: %w", name, err)
	}
	if err := s.unpackMoved(ctx, base, next, r); err != nil {
		return false, fmt.Errorf("receive volume %s: %w", name, err)
	}
	return false, s.takeMoved(name, base, next)
}

// placed reports whether PlaceMoved has made the volume. It returns ErrAlreadyExists if another
// volume has the name.
func (s *Store) placed(name, move string) (bool, error) {
	had, err := s.load(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case had.Move != move:
		return false, errdefs.ErrAlreadyExists.WithMessage("a volume " + name + " was made on the new node meanwhile")
	}
	return true, nil
}

// unpackMoved unpacks an archive into next, and writes it to the disk.
func (s *Store) unpackMoved(ctx context.Context, base, next string, r io.Reader) error {
	list, err := os.Create(filepath.Join(next, receivedFile))
	if err != nil {
		return err
	}
	defer list.Close()
	u := &unpacker{data: filepath.Join(next, dataFolder), list: bufio.NewWriter(list)}
	if base != "" {
		u.base = filepath.Join(base, dataFolder)
	}
	err = disk.WhileRoom(ctx, s.room, func(ctx context.Context) error { return unpack(ctx, u, r) })
	// The list is of use after an error too: the next archive goes on from there.
	if err := errors.Join(err, u.list.Flush()); err != nil {
		return err
	}
	return unix.Syncfs(int(list.Fd()))
}

// takeMoved makes the complete tree next the base.
func (s *Store) takeMoved(name, base, next string) error {
	if err := durable.WriteFile(filepath.Join(next, completeFile), nil, 0o600); err != nil {
		return err
	}
	to := filepath.Join(s.moveDir(name), baseFolder)
	if base == "" {
		return os.Rename(next, to)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return tree.RemoveAll(context.Background(), next)
}

// PlaceMoved implements engine.VolumeMover.
func (s *Store) PlaceMoved(v *swarmv1.Volume, move string) error {
	name := v.GetName()
	defer s.locks.lock(movePrefix + name)()
	defer s.locks.lock(name)()
	if placed, err := s.placed(name, move); placed || err != nil {
		return err
	}
	base, err := s.openMove(name, move)
	if err != nil {
		return err
	}
	if base == "" || !isComplete(base) {
		return errdefs.ErrFailedPrecondition.WithMessage("volume " + name + " was not received completely")
	}
	n := Named{Name: name, Labels: v.GetLabels(), Created: time.Now().UTC().Truncate(time.Second), Move: move}
	if at := v.GetCreatedAt(); at != nil {
		n.Created = at.AsTime()
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(base, infoFile), data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(base, s.dir(name)); err != nil {
		return err
	}
	for _, file := range []string{receivedFile, bootFile, completeFile} {
		_ = os.Remove(filepath.Join(s.dir(name), file)) // Nothing reads them there.
	}
	s.noteChange()
	return tree.RemoveAll(context.Background(), s.moveDir(name))
}

// DiscardMoved implements engine.VolumeMover.
func (s *Store) DiscardMoved(ctx context.Context, name, move string) error {
	defer s.locks.lock(movePrefix + name)()
	if id, err := os.ReadFile(filepath.Join(s.moveDir(name), moveFile)); err == nil && string(id) == move {
		if err := tree.RemoveAll(ctx, s.moveDir(name)); err != nil {
			return err
		}
	}
	if had, err := s.load(name); err != nil || had.Move != move {
		return nil // It is another volume, or none.
	}
	_, err := s.Remove(ctx, name)
	return err
}
