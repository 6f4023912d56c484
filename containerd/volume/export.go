//go:build linux

package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxExportLevels limits the nested folders of a volume that Export reads, because it keeps a
// descriptor open for each. Only a program that tries to do harm makes more.
const maxExportLevels = 512

// Export writes the files of a volume to w, as a tar archive that is compressed with zstd and has
// checksums. Containers may write to the volume at the same time: each file is then as it was at
// some moment, and not all at the same one. Sockets are left out.
//
// It returns ErrNotFound if there is no such volume, and ErrFailedPrecondition for a volume with
// driver options, whose files are elsewhere.
func (s *Store) Export(ctx context.Context, name string, w io.Writer) error {
	return s.export(name, w, exporter{ctx: ctx})
}

// export writes an archive as e says.
func (s *Store) export(name string, w io.Writer, e exporter) error {
	n, err := s.load(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrNotFound.WithMessage("no volume " + name)
	case err != nil:
		return err
	case len(n.Options) > 0:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the files of volume %s are on %s: make the backup there", name, n.Options["device"]))
	}
	top, err := os.OpenFile(s.dataDir(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer top.Close()
	packed, err := zstd.NewWriter(w, zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	e.out, e.links = tar.NewWriter(packed), make(map[inode]string)
	if e.move {
		err = e.begin(top)
	}
	if err == nil {
		err = e.top(top)
	}
	if err == nil {
		err = e.out.Close()
	}
	if err != nil {
		err = fmt.Errorf("export volume %s: %w", name, err)
	}
	return errors.Join(err, packed.Close())
}

// exporter writes one tree. It looks every entry up by its name in an open folder, and follows no
// link, because containers may change the tree at the same time.
type exporter struct {
	ctx   context.Context // the context of the call
	out   *tar.Writer
	links map[inode]string // the first path of each file that has several names

	move     bool      // the archive is for a node to which the volume moves
	began    time.Time // with move: no change of a file before this is missing in the archive
	received received  // with move: what the node has received
}

type inode struct{ dev, number uint64 }

func (e *exporter) top(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if err := e.folderHeader(dir, "./", &st); err != nil {
		return err
	}
	return e.folder(dir, "", 1)
}

// folder writes the content of a folder.
func (e *exporter) folder(dir *os.File, path string, level int) error {
	if level > maxExportLevels {
		return fmt.Errorf("%s: more than %d levels of folders: %w", path, maxExportLevels, errdefs.ErrFailedPrecondition)
	}
	for {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if err := e.ctx.Err(); err != nil {
				return err
			}
			if err := e.entry(dir, name, path+name, level); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entry writes one entry of a folder. It leaves out an entry that is gone or has become something
// else since the folder was read.
func (e *exporter) entry(dir *os.File, name, path string, level int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return gone(err)
	}
	h := headerOf(path, &st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := openIn(dir, name, unix.O_DIRECTORY)
		if err != nil {
			return gone(err)
		}
		defer sub.Close()
		if err := e.folderHeader(sub, path+"/", &st); err != nil {
			return err
		}
		return e.folder(sub, path+"/", level+1)
	case unix.S_IFREG:
		return e.file(dir, name, path, &st)
	case unix.S_IFLNK:
		target, err := readLink(dir, name)
		if err != nil {
			return gone(err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default: // A socket is of no use without its process.
		return nil
	}
	return e.out.WriteHeader(h)
}

func (e *exporter) folderHeader(dir *os.File, path string, st *unix.Stat_t) error {
	h := headerOf(path, st)
	h.Typeflag = tar.TypeDir
	addAttributes(h, dir)
	if e.move && path == "./" {
		addRecord(h, beganRecord, strconv.FormatInt(e.began.UnixNano(), 10))
	}
	return e.out.WriteHeader(h)
}

// file writes a regular file, or a link to one that was written under another name.
func (e *exporter) file(dir *os.File, name, path string, st *unix.Stat_t) error {
	id := inode{st.Dev, st.Ino}
	if first, ok := e.links[id]; ok {
		h := headerOf(path, st)
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return e.out.WriteHeader(h)
	}
	f, err := openIn(dir, name, 0)
	if err != nil {
		return gone(err)
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG { // It was replaced.
		return nil
	}
	if st.Nlink > 1 {
		e.links[inode{st.Dev, st.Ino}] = path
	}
	h := headerOf(path, st)
	h.Typeflag = tar.TypeReg
	if e.move {
		addRecord(h, fileRecord, identify(st))
		if e.received.has(path, st) {
			addRecord(h, keepRecord, "1")
			return e.out.WriteHeader(h)
		}
	}
	h.Size = st.Size
	addAttributes(h, f)
	if st.Blocks*512 < st.Size {
		addRecord(h, sparseRecord, "1")
	}
	if err := e.out.WriteHeader(h); err != nil {
		return err
	}
	written, err := io.Copy(e.out, io.LimitReader(f, st.Size))
	if err != nil {
		return err
	}
	// The header has the size, so a file that has become shorter is filled with zeros.
	_, err = io.CopyN(e.out, zeros{}, st.Size-written)
	return err
}

// zeros is a reader of zeros without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func headerOf(path string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Format: tar.FormatPAX, Name: path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
}

// attributePrefix begins the records of extended attributes in a tar archive.
const attributePrefix = "SCHILY.xattr."

// addAttributes adds the extended attributes of an open file, such as its access control list. It
// leaves out those that cannot be read.
func addAttributes(h *tar.Header, f *os.File) {
	size, err := unix.Flistxattr(int(f.Fd()), nil)
	if err != nil || size == 0 {
		return
	}
	names := make([]byte, size)
	size, err = unix.Flistxattr(int(f.Fd()), names)
	if err != nil {
		return
	}
	for name := range bytes.SplitSeq(names[:size], []byte{0}) {
		value := make([]byte, 64<<10) // the kernel's limit
		n, err := unix.Fgetxattr(int(f.Fd()), string(name), value)
		if len(name) == 0 || err != nil {
			continue
		}
		addRecord(h, attributePrefix+string(name), string(value[:n]))
	}
}

func addRecord(h *tar.Header, key, value string) {
	if h.PAXRecords == nil {
		h.PAXRecords = make(map[string]string)
	}
	h.PAXRecords[key] = value
}

// openIn opens an entry of a folder for reading. It does not wait, whatever the entry is.
func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readLink(dir *os.File, name string) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buffer)
	if err != nil {
		return "", err
	}
	return strings.ToValidUTF8(string(buffer[:n]), "\uFFFD"), nil
}

// gone returns nil for an error that says that an entry has gone or has become something else.
func gone(err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL, unix.ENXIO} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
