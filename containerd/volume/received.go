//go:build linux

package volume

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"swarm/containerd/inroot"
)

// The records of a header in an archive of SendMoved. An archive of Export has only sparseRecord.
const (
	beganRecord  = "SWARM.began"  // exporter.began, in the entry of the volume's folder
	fileRecord   = "SWARM.file"   // identify of a regular file
	keepRecord   = "SWARM.keep"   // the receiver has the file, and the archive lacks its content
	sparseRecord = "SWARM.sparse" // the file has holes
)

// received says which files a node has received of a volume that moves to it.
//
// Size and modification time do not show whether a file has changed: a program that has mapped the
// file may write to it without a new time until the kernel has written the page to the disk. So an
// archive begins with a sync of the file system, after which the first write to each page sets the
// file's change time. If a file has the change time that it had when the archive was made, and that
// time is before the sync, its content is the one in the archive.
type received struct {
	began time.Time // exporter.began of the archive from which the node has the files
	files map[string]string
}

// margin is how long before the sync a file must have been changed the last time. One call of
// write(2) sets the time before it copies the data, and the clock of the kernel is coarse.
const margin = 10 * time.Second

// identify returns what changes when a regular file is written, replaced, or gets other attributes.
func identify(st *unix.Stat_t) string {
	return fmt.Sprintf("%d:%d:%d:%d", st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// has reports whether the node has a file as it is now.
func (r received) has(path string, st *unix.Stat_t) bool {
	id, ok := r.files[path]
	return ok && id == identify(st) && time.Unix(st.Ctim.Unix()).Before(r.began.Add(-margin))
}

const (
	// maxReceived limits the memory that the list of received files takes: further files are sent
	// again. maxReceivedLine limits the length of a line: a longer path is sent again.
	maxReceived     = 2 << 20
	maxReceivedLine = 64 << 10
)

// parseReceived reads the list that an unpacker has written. It ignores what it cannot read,
// because a file that is not on the list is sent again.
func parseReceived(r io.Reader) (received, error) {
	out := received{files: make(map[string]string)}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxReceivedLine)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if key == beganRecord {
			if at, err := strconv.ParseInt(value, 10, 64); err == nil {
				out.began = time.Unix(0, at)
			}
			continue
		}
		if path, err := strconv.Unquote(value); err == nil && len(out.files) < maxReceived {
			out.files[path] = key
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		_, err := io.Copy(io.Discard, r)
		return out, err
	}
	return out, lines.Err()
}

// unpacker unpacks the entries of an archive into data. Its method entry sees each header before
// the entry is unpacked.
type unpacker struct {
	data string      // an empty folder
	top  *tar.Header // the entry of the volume's folder
	// base has the files that the archive may keep. Empty: it may keep none.
	base string
	list *bufio.Writer // receives the list of received files; nil: there is none
	last *tar.Header   // the regular file that is being unpacked
}

// entry implements archive.Filter.
func (u *unpacker) entry(h *tar.Header) (unpack bool, err error) {
	if err := u.finish(); err != nil {
		return false, err
	}
	if h.Name == "." {
		u.top = h
		if u.list != nil {
			_, err = fmt.Fprintf(u.list, "%s %s\n", beganRecord, h.PAXRecords[beganRecord])
		}
		return true, err
	}
	if h.Typeflag != tar.TypeReg {
		return true, nil
	}
	if h.PAXRecords[keepRecord] == "" {
		u.last = h
		return true, nil
	}
	if u.base == "" {
		return false, fmt.Errorf("%s: its content is missing", h.Name)
	}
	if err := u.keep(h.Name); err != nil {
		return false, fmt.Errorf("keep %s: %w", h.Name, err)
	}
	return false, u.note(h)
}

// finish completes the file that was unpacked last.
func (u *unpacker) finish() error {
	h := u.last
	if h == nil {
		return nil
	}
	u.last = nil
	if h.PAXRecords[sparseRecord] != "" {
		if err := u.punch(h); err != nil {
			return fmt.Errorf("holes of %s: %w", h.Name, err)
		}
	}
	return u.note(h)
}

// note adds a file that is complete to the list.
func (u *unpacker) note(h *tar.Header) error {
	id := h.PAXRecords[fileRecord]
	if u.list == nil || id == "" || strings.ContainsAny(id, " \n") {
		return nil
	}
	_, err := fmt.Fprintf(u.list, "%s %q\n", id, h.Name)
	return err
}

// keep links a file of base to the same path.
func (u *unpacker) keep(path string) error {
	from, err := inroot.Open(u.base, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := inroot.Open(u.data, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer to.Close()
	name := filepath.Base(path)
	return unix.Linkat(int(from.Fd()), name, int(to.Fd()), name, 0)
}

// holeSize is the granularity of holes: a block of most file systems.
const holeSize = 4096

// punch makes holes of the blocks of a file that have only zeros.
func (u *unpacker) punch(h *tar.Header) error {
	dir, err := inroot.Open(u.data, filepath.Dir(h.Name))
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(h.Name), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer f.Close()
	buffer := make([]byte, 256*holeSize)
	for at := int64(0); ; at += int64(len(buffer)) {
		n, err := f.ReadAt(buffer, at)
		for i := 0; i < n; {
			zero := isZero(buffer[i:min(i+holeSize, n)])
			end := min(i+holeSize, n)
			for end < n && isZero(buffer[end:min(end+holeSize, n)]) == zero {
				end = min(end+holeSize, n)
			}
			if zero {
				err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at+int64(i), int64(end-i))
				if errors.Is(err, unix.EOPNOTSUPP) {
					return nil // The file system has no holes.
				}
				if err != nil {
					return err
				}
			}
			i = end
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	times := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), filepath.Base(h.Name), []unix.Timespec{times, times}, unix.AT_SYMLINK_NOFOLLOW)
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
