package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := New(cfg, Deps{slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func run(t *testing.T, s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func create(t *testing.T, s *Store, id string) string {
	t.Helper()
	dir, err := s.Create(&swarmv1.Task{Id: id, ServiceId: "s1", Slot: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func records(t *testing.T, s *Store, id string, opts *swarmv1.LogOptions) []*swarmv1.LogRecord {
	t.Helper()
	var out []*swarmv1.LogRecord
	err := s.Read(context.Background(), id, opts, func(m *swarmv1.TaskLogsResponse) error {
		out = append(out, m.Records...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lines(records []*swarmv1.LogRecord) []string {
	var out []string
	for _, r := range records {
		out = append(out, string(r.Data))
	}
	return out
}

func TestStore_LinesOfBothStreams(t *testing.T) {
	s := open(t, Config{NodeID: "n1"})
	dir := create(t, s, "t1")
	write(t, dir, engine.StdoutFile, "one\n\nthree\nunfin")
	write(t, dir, engine.StderrFile, "oops\n")
	got := records(t, s, "t1", nil)
	if diff := cmp.Diff([]string{"one", "", "three", "oops"}, lines(got)); diff != "" {
		t.Error(diff)
	}
	if r := got[2]; r.Offset != 5 || r.Stream != swarmv1.LogRecord_STDOUT || r.TaskId != "t1" || r.ServiceId != "s1" || r.NodeId != "n1" || r.Slot != 3 || r.Partial {
		t.Errorf("record = %v", r)
	}
	write(t, dir, engine.StdoutFile, "ished\n"+strings.Repeat("x", maxLine+5)+"\nend")
	s.Finish("t1")
	s.Finish("t1")
	got = records(t, s, "t1", &swarmv1.LogOptions{Tail: -1, Streams: []swarmv1.LogRecord_Stream{swarmv1.LogRecord_STDOUT}})
	want := []string{"one", "", "three", "unfinished", strings.Repeat("x", maxLine), "xxxxx", "end"}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
	if !got[4].Partial || got[5].Partial || !got[6].Partial {
		t.Error("partial records are marked wrongly")
	}
	if _, err := os.Stat(filepath.Join(dir, engine.StdoutFile)); !os.IsNotExist(err) {
		t.Error("the source is still there after the end")
	}
	if err := s.Read(t.Context(), "nope", nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("unknown task: %v", err)
	}
}

func TestStore_KilledDaemonLosesAndDoublesNothing(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 4000, Segments: 1000}
	s := open(t, cfg)
	task := create(t, s, "t1")
	rng := rand.New(rand.NewPCG(1, 2))
	var want []string
	n := 0
	for range 60 {
		var b strings.Builder
		for range rng.IntN(40) {
			line := fmt.Sprintf("line %d %s", n, strings.Repeat("y", rng.IntN(50)))
			n++
			want = append(want, line)
			b.WriteString(line + "\n")
		}
		text := b.String()
		cut := rng.IntN(len(text) + 1)
		write(t, task, engine.StdoutFile, text[:cut])
		_ = records(t, s, "t1", nil)
		if rng.IntN(2) == 0 { // killed: the files are as they are, perhaps with half a record at the end
			j := s.get("t1")
			if rng.IntN(2) == 0 && j.out != nil {
				whole := appendRecord(nil, record{data: []byte("torn away"), offset: j.sources[0].offset})
				_, _ = j.out.Write(whole[:rng.IntN(len(whole))])
			}
			s.Close()
			s = open(t, cfg)
		}
		write(t, task, engine.StdoutFile, text[cut:])
	}
	s.Finish("t1")
	if diff := cmp.Diff(want, lines(records(t, s, "t1", nil))); diff != "" {
		t.Error(diff)
	}
}

func TestStore_RotatesAndKeepsTheLast(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 1000, Segments: 3}
	s := open(t, cfg)
	task := create(t, s, "t1")
	write(t, task, engine.StderrFile, "first and last word\n")
	for i := range 200 {
		write(t, task, engine.StdoutFile, fmt.Sprintf("line %d\n", i))
		_ = records(t, s, "t1", &swarmv1.LogOptions{})
	}
	got := lines(records(t, s, "t1", nil))
	if len(got) < 50 || len(got) > 120 || got[len(got)-1] != "line 199" {
		t.Errorf("%d lines kept, the last is %q", len(got), got[len(got)-1])
	}
	// The only record of stderr was rotated away, but its offset is still known.
	s.Close()
	s = open(t, cfg)
	if again := lines(records(t, s, "t1", nil)); !slices.Equal(got, again) {
		t.Errorf("after reopening: %q, want %q", again, got)
	}
}

func TestStore_TailSinceUntil(t *testing.T) {
	s := open(t, Config{SegmentBytes: 300, Segments: 100})
	task := create(t, s, "t1")
	for i := range 30 {
		write(t, task, engine.StdoutFile, fmt.Sprintf("line %d\n", i))
		_ = records(t, s, "t1", &swarmv1.LogOptions{})
	}
	all := records(t, s, "t1", &swarmv1.LogOptions{Tail: -1})
	for _, tail := range []int{0, 1, 7, 29, 30, 31} {
		got := records(t, s, "t1", &swarmv1.LogOptions{Tail: int64(tail)})
		want := all[max(0, len(all)-tail):]
		if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
			t.Errorf("tail %d: %s", tail, diff)
		}
	}
	at := func(i int) *timestamppb.Timestamp { return all[i].Timestamp }
	got := records(t, s, "t1", &swarmv1.LogOptions{Tail: -1, Since: at(10), Until: at(20)})
	if diff := cmp.Diff(lines(all[10:21]), lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestStore_Follow(t *testing.T) {
	s := open(t, Config{})
	run(t, s)
	task := create(t, s, "t1")
	write(t, task, engine.StdoutFile, "old\n")
	got := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.Read(context.Background(), "t1", &swarmv1.LogOptions{Tail: -1, Follow: true}, func(m *swarmv1.TaskLogsResponse) error {
			for _, x := range m.Records {
				got <- string(x.Data)
			}
			return nil
		})
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case line := <-got:
			if line != want {
				t.Fatalf("followed %q, want %q", line, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q did not arrive", want)
		}
	}
	expect("old")
	for i := range 20 {
		write(t, task, engine.StdoutFile, fmt.Sprintf("line %d\n", i))
		expect(fmt.Sprintf("line %d", i))
	}
	write(t, task, engine.StderrFile, "last")
	s.Finish("t1")
	expect("last")
	if err := <-done; err != nil {
		t.Errorf("a follower ended with %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	create(t, s, "t2")
	go cancel()
	if err := s.Read(ctx, "t2", &swarmv1.LogOptions{Follow: true}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled follower: %v", err)
	}
}

func TestStore_GivesSpaceBack(t *testing.T) {
	s := open(t, Config{SegmentBytes: 1 << 20, Segments: 2})
	task := create(t, s, "t1")
	line := strings.Repeat("z", 1000) + "\n"
	for range 20 {
		write(t, task, engine.StdoutFile, strings.Repeat(line, 500))
		_ = records(t, s, "t1", &swarmv1.LogOptions{})
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(task, engine.StdoutFile), &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 4<<20 {
		t.Errorf("%d bytes of %d written are still on the disk", used, st.Size)
	}
}

func TestStore_RetiredLogsGoByBytesAndAge(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, RetainAge: time.Hour}
	s := open(t, cfg)
	text := strings.Repeat("w", 900) + "\n"
	write(t, create(t, s, "first"), engine.StdoutFile, text)
	s.Retire("first")
	each := s.Sizes()[0].Bytes // on the disk: small logs take whole blocks, and a folder
	if each < folderBytes+4096 {
		t.Fatalf("a log with one line takes %d bytes", each)
	}
	s.Close()
	cfg.RetainBytes = 3*each + 1
	s = open(t, cfg)
	for i := range 5 {
		id := fmt.Sprintf("t%d", i)
		write(t, create(t, s, id), engine.StdoutFile, text)
		s.Retire(id)
	}
	for range 2 {
		for i := range 5 {
			id := fmt.Sprintf("t%d", i)
			err := s.Read(t.Context(), id, nil, func(m *swarmv1.TaskLogsResponse) error {
				if got := string(m.Records[0].Data) + "\n"; got != text {
					t.Errorf("%s: %q", id, got)
				}
				return nil
			})
			if kept := err == nil; kept != (i >= 2) {
				t.Errorf("%s kept: %v", id, kept)
			}
		}
		s.Close()
		s = open(t, cfg)
	}
	if len(s.journals) != 0 {
		t.Errorf("%d logs of history are held open", len(s.journals))
	}
	create(t, s, "live")
	write(t, create(t, s, "orphan"), engine.StdoutFile, text)
	create(t, s, "mute")
	s.Keep([]string{"live"})
	if len(s.retired) != 3 || s.retired[2].id != "orphan" {
		t.Errorf("retired: %v", s.retired)
	}
	if _, err := os.Stat(filepath.Join(dir, "mute")); !os.IsNotExist(err) {
		t.Errorf("the log of a task that wrote nothing: %v", err)
	}
	create(t, s, "orphan") // The same task again: its log is a new one.
	if got := records(t, s, "orphan", nil); len(got) != 0 {
		t.Errorf("a new log begins with %q", lines(got))
	}
	s.prune(time.Now().Add(2 * time.Hour))
	entries, err := os.ReadDir(dir)
	if len(s.retired) != 0 || len(entries) != 2 || err != nil {
		t.Errorf("after two hours: %v retired, %v on the disk, %v; want live and orphan", s.retired, entries, err)
	}
}

func TestStore_ManyWritersAtOnce(t *testing.T) {
	s := open(t, Config{})
	run(t, s)
	var wg sync.WaitGroup
	const tasks, each = 20, 500
	for i := range tasks {
		dir := create(t, s, fmt.Sprintf("t%d", i))
		wg.Go(func() {
			for n := range each {
				write(t, dir, engine.StdoutFile, fmt.Sprintf("%d\n", n))
			}
		})
	}
	wg.Wait()
	for i := range tasks {
		id := fmt.Sprintf("t%d", i)
		s.Finish(id)
		if got := len(records(t, s, id, nil)); got != each {
			t.Errorf("%s has %d lines, want %d", id, got, each)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	good := appendHeader(nil, [2]uint64{1, 2})
	good = appendRecord(good, record{time: 5, offset: 7, data: []byte("hello")})
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(bytes.NewReader(b))
		if _, err := d.header(); err != nil {
			return
		}
		for {
			_, err := d.next()
			if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if d.size > int64(len(b)) {
			t.Fatalf("decoded %d of %d bytes", d.size, len(b))
		}
	})
}
