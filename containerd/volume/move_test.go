//go:build linux

package volume

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// pass copies the volume to another store as a move does, and returns the length of the archive.
func pass(t *testing.T, from, to *Store, move string) int {
	t.Helper()
	var list, archive bytes.Buffer
	if err := to.ListReceived(t.Context(), "from", move, &list); err != nil {
		t.Fatal(err)
	}
	if err := from.SendMoved(t.Context(), "from", true, &list, &archive); err != nil {
		t.Fatal(err)
	}
	size := archive.Len()
	if placed, err := to.ReceiveMoved(t.Context(), "from", move, &archive); placed || err != nil {
		t.Fatalf("placed %v, %v", placed, err)
	}
	return size
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func crc(data []byte) uint32 { return crc32.ChecksumIEEE(data) }

// noise is data that does not shrink when it is compressed.
func noise(n int) []byte { return ident.RandomBytes(n) }

// age makes the files that a node has received old enough to be kept. The kernel sets the change
// time of a file, so age moves the time in the list instead.
func age(t *testing.T, s *Store) {
	t.Helper()
	path := filepath.Join(s.moveDir("from"), baseFolder, receivedFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitN(string(text), "\n", 2)
	later := time.Now().Add(2 * margin).UnixNano()
	if err := os.WriteFile(path, []byte(beganRecord+" "+itoa(later)+"\n"+lines[1]), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStore_Move(t *testing.T) {
	from, to, move := filled(t), newTestStore(t), ident.NewID()
	at := func(name string) string { return filepath.Join(from.dataDir("from"), name) }
	hole := make([]byte, 1<<20)
	hole[1<<19] = 1
	if err := errors.Join(os.WriteFile(at("big"), noise(2<<20), 0o600), os.WriteFile(at("grows"), noise(1000), 0o600), os.WriteFile(at("goes"), nil, 0o600),
		os.WriteFile(at("sparse"), hole, 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(at("sparse"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<19), f.Close()); err != nil {
		t.Fatal(err)
	}
	if n := pass(t, from, to, move); n < 2<<20 {
		t.Errorf("the first archive has only %d bytes", n)
	}
	if n := pass(t, from, to, move); n < 2<<20 {
		t.Errorf("files that were changed a moment ago must be sent again, and the archive has only %d bytes", n)
	}
	age(t, to)
	if err := errors.Join(os.Remove(at("goes")), os.WriteFile(at("grows"), noise(1000), 0o600), os.Link(at("big"), at("again"))); err != nil {
		t.Fatal(err)
	}
	// The new link has changed the file's change time. Its data is sent again, once.
	if n := pass(t, from, to, move); n < 2<<20 || n > 3<<20 {
		t.Errorf("the archive has %d bytes", n)
	}
	age(t, to)
	if n := pass(t, from, to, move); n > 100<<10 {
		t.Errorf("nothing has changed, and the archive has %d bytes", n)
	}
	if list, err := to.List(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("before PlaceMoved the node has %v, %v", list, err)
	}
	if err := to.Recover(); err != nil {
		t.Fatal(err)
	}
	v := &swarmv1.Volume{Name: "from", Labels: map[string]string{"a": "b"}}
	for range 2 { // PlaceMoved may be repeated.
		if err := to.PlaceMoved(v, move); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.ListReceived(t.Context(), "from", move, io.Discard); err != nil {
		t.Error(err)
	}
	if placed, err := to.ReceiveMoved(t.Context(), "from", move, nil); !placed || err != nil {
		t.Errorf("after PlaceMoved: %v, %v", placed, err)
	}
	if _, err := to.ReceiveMoved(t.Context(), "from", ident.NewID(), nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another move: %v", err)
	}
	if _, err := os.Lstat(to.moveDir("from")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of the move is left: %v", err)
	}
	sameTrees(t, from.dataDir("from"), to.dataDir("from"))
	if err := to.DiscardMoved(t.Context(), "from", ident.NewID()); err != nil {
		t.Error(err)
	}
	if list, err := to.List(t.Context()); len(list) != 1 || list[0].GetLabels()["a"] != "b" || err != nil {
		t.Errorf("the node has %v, %v", list, err)
	}
	if err := to.DiscardMoved(t.Context(), "from", move); err != nil {
		t.Error(err)
	}
	if list, err := to.List(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("after DiscardMoved the node has %v, %v", list, err)
	}
}

func TestStore_MoveGoesOn(t *testing.T) {
	from, to, move := filled(t), newTestStore(t), ident.NewID()
	var archive bytes.Buffer
	if err := os.WriteFile(filepath.Join(from.dataDir("from"), "big"), noise(4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := from.SendMoved(t.Context(), "from", true, strings.NewReader(""), &archive); err != nil {
		t.Fatal(err)
	}
	broken := bytes.NewReader(archive.Bytes()[:archive.Len()-100])
	if _, err := to.ReceiveMoved(t.Context(), "from", move, broken); !errdefs.IsInvalidArgument(err) {
		t.Fatalf("a shortened archive: %v", err)
	}
	if err := to.PlaceMoved(&swarmv1.Volume{Name: "from"}, move); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("PlaceMoved of a part: %v", err)
	}
	var list bytes.Buffer
	if err := to.ListReceived(t.Context(), "from", move, &list); err != nil || !strings.Contains(list.String(), `"large"`) {
		t.Errorf("received %q, %v", list.String(), err)
	}
	// After a loss of power the content of the files is not certain.
	if err := os.WriteFile(filepath.Join(to.moveDir("from"), baseFolder, bootFile), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	list.Reset()
	if err := to.ListReceived(t.Context(), "from", move, &list); err != nil || list.Len() > 0 {
		t.Errorf("after a loss of power: %q, %v", list.String(), err)
	}
	pass(t, from, to, move)
	if err := to.PlaceMoved(&swarmv1.Volume{Name: "from"}, move); err != nil {
		t.Error(err)
	}
	sameTrees(t, from.dataDir("from"), to.dataDir("from"))
}

// sameTrees compares two trees: names, owners, modes, times, links, content, attributes and holes.
func sameTrees(t *testing.T, a, b string) {
	t.Helper()
	got, want := describeTree(t, b), describeTree(t, a)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func describeTree(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		out.WriteString(rel + " " + itoa(int64(st.Mode)) + " " + itoa(int64(st.Uid)) + " " + itoa(int64(st.Gid)))
		if rel != "." {
			out.WriteString(" " + itoa(st.Mtim.Sec))
		}
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			value := make([]byte, 10)
			n, _ := unix.Lgetxattr(path, "user.a", value)
			out.WriteString(" " + itoa(int64(st.Nlink)) + " " + itoa(int64(len(data))) + " " + itoa(int64(crc(data))) + " " + string(value[:max(n, 0)]))
			if strings.HasSuffix(path, "sparse") {
				out.WriteString(map[bool]string{true: " sparse"}[st.Blocks*512 < st.Size])
			}
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
