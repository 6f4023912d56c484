package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

func onDisk(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// A backlog that is larger than rotation keeps is skipped up to the end of a line, and a record
// says so. So output takes a bounded part of the disk.
func TestStore_OutputThatCannotBeCopiedInTimeIsBounded(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 64 << 10, Segments: 16}
	s := open(t, cfg)
	task := create(t, s, "t1")
	write(t, task, engine.StdoutFile, "first\n")
	_ = records(t, s, "t1", nil)
	var b strings.Builder
	n := 0
	for ; b.Len() < 5<<20; n++ {
		fmt.Fprintf(&b, "line %d %s\n", n, strings.Repeat("x", n%200))
	}
	write(t, task, engine.StdoutFile, b.String())
	got := records(t, s, "t1", nil)
	if string(got[0].Data) != "first" || got[1].Lost == 0 || got[1].Offset != 6 || len(got[1].Data) != 0 {
		t.Fatalf("begins with %v, %v", got[0], got[1])
	}
	kept := got[2:]
	if want := uint64(6) + got[1].Lost; kept[0].Offset != want || !bytes.HasPrefix(kept[0].Data, []byte("line ")) {
		t.Errorf("goes on at %d with %q, want %d and a whole line", kept[0].Offset, kept[0].Data, want)
	}
	if last := string(kept[len(kept)-1].Data); !strings.HasPrefix(last, fmt.Sprintf("line %d ", n-1)) {
		t.Errorf("ends with %q, want line %d", last, n-1)
	}
	for i, r := range kept[1:] {
		if before := kept[i]; r.Offset != before.Offset+uint64(len(before.Data))+1 {
			t.Fatalf("a hole between %d and %d", before.Offset, r.Offset)
		}
	}
	if used, most := onDisk(t, filepath.Join(task, engine.StdoutFile)), int64(cfg.Segments)*cfg.SegmentBytes+punchSize; used > most {
		t.Errorf("%d bytes of output are on the disk, at most %d should be", used, most)
	}
	s.Close()
	s = open(t, cfg)
	if again := records(t, s, "t1", nil); len(again) != len(got) || again[1].Lost != got[1].Lost {
		t.Errorf("%d records after reopening, want %d", len(again), len(got))
	}
}

// One container writes as fast as it can, and a reader that cannot keep up follows it. The lines of
// other containers still come, and neither memory nor disk usage grows.
func TestStore_FirehoseKeepsNobodyWaiting(t *testing.T) {
	s := open(t, Config{SegmentBytes: 1 << 20, Segments: 3})
	run(t, s)
	loud, quiet := create(t, s, "loud"), create(t, s, "quiet")
	ctx, cancel := context.WithCancel(t.Context())
	hose, stuck, followed := make(chan int64, 1), make(chan error, 1), make(chan error, 1)
	go func() { hose <- pour(ctx, filepath.Join(loud, engine.StdoutFile)) }()
	go func() {
		stuck <- s.Read(ctx, "loud", &swarmv1.LogOptions{Tail: -1, Follow: true}, func(*swarmv1.TaskLogsResponse) error {
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	lines := make(chan string, 100)
	go func() {
		followed <- s.Read(ctx, "quiet", &swarmv1.LogOptions{Tail: -1, Follow: true}, func(m *swarmv1.TaskLogsResponse) error {
			for _, r := range m.Records {
				lines <- string(r.Data)
			}
			return nil
		})
	}()
	var slowest time.Duration
	for i := range 50 {
		began := time.Now()
		write(t, quiet, engine.StdoutFile, fmt.Sprintf("%d\n", i))
		select {
		case line := <-lines:
			if line != fmt.Sprint(i) {
				t.Fatalf("followed %q, want %d", line, i)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("line %d did not come", i)
		}
		slowest = max(slowest, time.Since(began))
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	cancel()
	poured := <-hose
	<-stuck
	<-followed
	t.Logf("%d MB poured meanwhile, the slowest quiet line took %s, heap %d MB", poured>>20, slowest, mem.HeapAlloc>>20)
	if slowest > 5*time.Second {
		t.Errorf("a quiet line took %s beside a loud writer", slowest)
	}
	if mem.HeapAlloc > 64<<20 {
		t.Errorf("heap of %d bytes", mem.HeapAlloc)
	}
	_ = records(t, s, "loud", &swarmv1.LogOptions{}) // copies the last lines, and so bounds the file
	total := onDisk(t, filepath.Join(loud, engine.StdoutFile)) + s.get("loud").bytes()
	if most := int64(2*3<<20 + punchSize + 2*readSize); total > most {
		t.Errorf("%d bytes on the disk, at most %d should be", total, most)
	}
}

// pour writes until ctx ends, and returns how many bytes it wrote.
func pour(ctx context.Context, path string) (n int64) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte(strings.Repeat("z", 127)+"\n"), 256)
	for ctx.Err() == nil {
		m, _ := f.Write(chunk)
		n += int64(m)
	}
	return n
}

func TestStore_DriverOptions(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	revision := func(d *swarmv1.Driver) *swarmv1.Revision {
		return &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{LogDriver: d, ContainerSpec: &swarmv1.ContainerSpec{
			Env: []string{"COLOUR=red", "B=2"}, Labels: map[string]string{"tier": "front"},
		}}}}
	}
	none := &swarmv1.Driver{Name: "none"}
	small := &swarmv1.Driver{Name: "local", Options: map[string]string{"max-size": "64k", "max-file": "2", "env": "COLOUR", "labels": "tier"}}
	for _, test := range []struct {
		id      string
		ours    *swarmv1.Driver // the service's
		cluster *swarmv1.Driver
		kept    bool
		max     int64
	}{
		{"plain", nil, nil, true, DefaultSegmentBytes},
		{"none", none, nil, false, 0},
		{"none-by-default", nil, none, false, 0},
		{"own", small, none, true, 64 << 10},
		{"small-by-default", nil, small, true, 64 << 10},
	} {
		got, err := s.Create(&swarmv1.Task{Id: test.id, LogDriver: test.cluster}, revision(test.ours))
		if err != nil || (got != "") != test.kept {
			t.Errorf("%s: folder %q, %v", test.id, got, err)
		}
		if j := s.get(test.id); test.kept && j.max != test.max {
			t.Errorf("%s: files of %d bytes, want %d", test.id, j.max, test.max)
		}
	}
	if _, err := s.Create(&swarmv1.Task{Id: "bad"}, revision(&swarmv1.Driver{Name: "syslog"})); err == nil {
		t.Error("an unknown driver is taken")
	}
	s.Close()
	s = open(t, Config{Dir: dir})
	if j := s.get("own"); j.max != 64<<10 || j.keep != 2 {
		t.Errorf("after reopening: %d files of %d bytes", j.keep, j.max)
	}
	var details map[string]string
	err := s.Read(t.Context(), "own", &swarmv1.LogOptions{Details: true}, func(m *swarmv1.TaskLogsResponse) error {
		details = m.Details[0].Details
		return nil
	})
	if diff := cmp.Diff(map[string]string{"COLOUR": "red", "tier": "front"}, details); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// A reader continues behind the places that it names, whichever segment has them.
func TestStore_After(t *testing.T) {
	s := open(t, Config{SegmentBytes: 300, Segments: 100})
	task := create(t, s, "t1")
	for i := range 30 {
		write(t, task, engine.StdoutFile, fmt.Sprintf("out %d\n", i))
		write(t, task, engine.StderrFile, fmt.Sprintf("err %d\n", i))
		_ = records(t, s, "t1", &swarmv1.LogOptions{})
	}
	all := records(t, s, "t1", nil)
	for cut := 1; cut < len(all); cut++ {
		for _, tail := range []int{1, 2, cut} { // with a tail of 1, one stream has no place
			last := map[swarmv1.LogRecord_Stream]*swarmv1.LogPlace{}
			for _, r := range all[max(0, cut-tail):cut] {
				last[r.Stream] = &swarmv1.LogPlace{Stream: r.Stream, Offset: r.Offset}
			}
			o := &swarmv1.LogOptions{Tail: int64(tail)}
			for _, place := range last {
				o.After = append(o.After, place)
			}
			if diff := cmp.Diff(lines(all[cut:]), lines(records(t, s, "t1", o))); diff != "" {
				t.Fatalf("behind record %d, of which the last %d are known: %s", cut, tail, diff)
			}
		}
	}
}

// Output without an end of line, now or for good, counts as a line.
func TestStore_TailCountsTheLineWithoutEnd(t *testing.T) {
	s := open(t, Config{})
	write(t, create(t, s, "t1"), engine.StdoutFile, "one\ntwo\n"+strings.Repeat("y", 2*maxLine))
	s.Finish("t1")
	got := records(t, s, "t1", &swarmv1.LogOptions{Tail: 2})
	if len(got) != 3 || string(got[0].Data) != "two" {
		t.Errorf("%d records, the first is %.20q; want two, and a line in two parts", len(got), got[0].Data)
	}
}
