package watch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// replica is a state with its broker.
type replica struct {
	*Broker
	state *table.State
}

func newReplica() *replica {
	st := table.NewState()
	return &replica{NewBroker(st.View()), st}
}

func (r *replica) apply(tb testing.TB, index uint64, env *swarmv1.Envelope) {
	tb.Helper()
	data, err := env.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	_, changes, err := r.state.Apply(index, data, nil)
	if err != nil {
		tb.Fatal(err)
	}
	r.Publish(r.state.View(), changes)
}

func TestWatch_InOrderWithoutGapAndResync(t *testing.T) {
	f := newReplica()
	s := f.Broker
	ctx := context.Background()
	claim := func(index uint64, key string) {
		f.apply(t, index, &swarmv1.Envelope{Format: table.Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{table.Group(table.Put(&swarmv1.Claim{Key: key}))}}}})
	}
	claim(1, "before")
	view, w := s.Watch(table.Claim)
	_, other := s.Watch(table.Task)
	for i := range uint64(10) {
		claim(2+i, fmt.Sprint(i))
	}
	var keys []string
	for len(keys) < 10 {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			keys = append(keys, c.Key)
			if c.Index > b.View.Index() {
				t.Errorf("change %d comes before its view %d", c.Index, b.View.Index())
			}
		}
	}
	if want := "[0 1 2 3 4 5 6 7 8 9]"; fmt.Sprint(keys) != want || view.Claims.Len() != 1 {
		t.Errorf("got %v, want %s", keys, want)
	}
	since, err := s.Since(6, table.Claim)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := since.Next(ctx); err != nil || len(b.Changes) != 5 || b.Changes[0].Index != 7 {
		t.Errorf("since 6: %v, %v", b.Changes, err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := other.Next(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("a watcher of another table: %v", err)
	}
	_, slow := s.Watch()
	f.maxChanges = 10
	for i := range uint64(20) {
		claim(20+i, "x")
	}
	if _, err := slow.Next(ctx); !errors.Is(err, ErrResync) {
		t.Errorf("a watcher far behind: %v", err)
	}
	if _, err := s.Since(6); !errors.Is(err, ErrResync) {
		t.Errorf("since an index long gone: %v", err)
	}
	if _, err := s.Since(1000); !errors.Is(err, ErrResync) {
		t.Errorf("since an index yet to come: %v", err)
	}
}

// DropOld keeps little, and nothing of a large batch. Watchers that have read everything do not
// notice.
func TestWatch_DropOld(t *testing.T) {
	f := newReplica()
	s := f.Broker
	commit := func(index uint64, rows int) {
		g := &swarmv1.Group{}
		for i := range rows {
			g.Changes = append(g.Changes, table.Put(&swarmv1.Claim{Key: fmt.Sprint(i)}))
		}
		f.apply(t, index, &swarmv1.Envelope{Format: table.Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{g}}}})
	}
	f.DropOld()
	const many = 1000
	commit(1, many)
	_, ahead := s.Watch()
	_, behind := s.Watch()
	commit(2, many)
	commit(3, many)
	if b, err := ahead.Next(t.Context()); err != nil || len(b.Changes) != 2*many {
		t.Fatalf("got %d changes, %v", len(b.Changes), err)
	}
	for range 2 {
		f.DropOld()
	}
	if f.kept != 1 {
		t.Errorf("%d changes and links are kept, want one link", f.kept)
	}
	since, err := s.Since(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Since(2); !errors.Is(err, ErrResync) {
		t.Errorf("since an index that was dropped: %v", err)
	}
	if _, err := behind.Next(t.Context()); !errors.Is(err, ErrResync) {
		t.Errorf("a watcher that had not read everything: %v", err)
	}
	commit(4, 1)
	f.DropOld()
	again, err := s.Since(3)
	if err != nil {
		t.Fatalf("a small change that came before the rest: %v", err)
	}
	for _, w := range []*Watcher{ahead, since, again} {
		if b, err := w.Next(t.Context()); err != nil || len(b.Changes) != 1 || b.Changes[0].Index != 4 {
			t.Errorf("got %v, %v, want entry 4", b.Changes, err)
		}
	}
}

// The memory of the history is bounded whatever the size of rows, because a worker can write large
// rows often.
func TestWatch_HistoryIsBoundedInBytes(t *testing.T) {
	text := strings.Repeat("x", 250)
	large := func(i int) *swarmv1.Change {
		d := &swarmv1.NodeDescription{Engine: &swarmv1.EngineDescription{Labels: map[string]string{}}}
		for j := range 200 {
			d.Engine.Labels[fmt.Sprintf("%d-%s", j, text)] = fmt.Sprintf("%d-%s", i, text)
		}
		return table.Put(&swarmv1.NodeState{NodeId: "n1", Description: d})
	}
	small := func(i int) *swarmv1.Change {
		now := timestamppb.Now()
		return table.Put(&swarmv1.TaskStatus{TaskId: strconv.Itoa(i % 100), SessionEpoch: uint64(i), State: swarmv1.TaskState_RUNNING, Message: fmt.Sprintf("started %d", i), Timestamp: now, RunningSince: now})
	}
	for name, tc := range map[string]struct {
		change func(i int) *swarmv1.Change
		n, one int // number of changes, and changes in one batch
	}{"large rows": {large, 600, 1}, "small rows": {small, 60_000, 1}, "small rows in batches": {small, 60_000, 100}} {
		t.Run(name, func(t *testing.T) {
			f := newReplica()
			before := heap()
			for i := 0; i < tc.n; {
				g := &swarmv1.Group{}
				for range tc.one {
					g.Changes = append(g.Changes, tc.change(i))
					i++
				}
				f.apply(t, uint64(i), &swarmv1.Envelope{Format: table.Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{g}}}})
			}
			grown := heap() - before
			t.Logf("%d changes are kept, %.1f MB by estimate and %.1f MB of memory", f.kept, float64(f.bytes)/1e6, float64(grown)/1e6)
			if grown > keepBytes*3/2 {
				t.Errorf("the history takes %d bytes, want at most about %d", grown, keepBytes)
			}
			f.DropOld()
			if rest := heap() - before; rest > 1<<20 {
				t.Errorf("at rest the history takes %d bytes, want at most about what the rows do", rest)
			}
			runtime.KeepAlive(f)
		})
	}
}

// heap returns the bytes in use after a garbage collection.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
