package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Output that a container wrote while the disk was full is copied when there is space, even if the
// container writes no more. Each line is copied once.
func TestStore_DiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	s := open(t, Config{Dir: filepath.Join(disk, "logs")})
	run(t, s)
	dir := create(t, s, "t1")
	filler := filepath.Join(disk, "filler")
	write(t, dir, engine.StdoutFile, "stored\n")
	eventually.True(t, "the first line is copied", func() bool { return s.get("t1").bytes() > 0 })
	stored := s.get("t1").bytes()
	source, err := os.OpenFile(filepath.Join(dir, engine.StdoutFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := unix.Fallocate(int(source.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 64<<10); err != nil { // room for the container alone
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk takes it all: %v", err)
	}
	want := []string{"stored"}
	for i := range 3000 {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	write(t, dir, engine.StdoutFile, strings.Join(want[1:], "\n")+"\n")
	eventually.True(t, "the store has met the full disk", func() bool {
		s.retry.mu.Lock()
		defer s.retry.mu.Unlock()
		return len(s.retry.journals) > 0
	})
	var shown []*swarmv1.LogRecord
	err = s.Read(t.Context(), "t1", nil, func(r *swarmv1.TaskLogsResponse) error {
		shown = append(shown, r.GetRecords()...)
		return nil
	})
	if !errors.Is(err, unix.ENOSPC) || len(shown) != 1 || string(shown[0].GetData()) != "stored" {
		t.Errorf("on a full disk: got %v, %v; want what is stored, and that more is missing", shown, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the lines are copied", func() bool { return s.get("t1").bytes() > stored })
	if diff := cmp.Diff(want, lines(records(t, s, "t1", nil))); diff != "" {
		t.Error(diff)
	}
}
