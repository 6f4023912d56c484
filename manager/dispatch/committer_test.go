package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"swarm/internal/pace"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// ledger is a store that accepts every commit for which poison returns nil.
type ledger struct {
	view *table.View
	// poison returns the error of a commit with the statuses of some tasks.
	poison func(tasks []string) error
	// reject returns the answer for one group; nil: every group is accepted.
	reject func(*swarmv1.Change) error

	mu      sync.Mutex // guards the fields below
	commits [][]string // task ids of each commit that succeeded
	tries   int
}

func (l *ledger) View() *table.View { return l.view }

func (l *ledger) WaitIndex(context.Context, uint64) (*table.View, error) { return l.view, nil }

func (l *ledger) CommitGroups(_ context.Context, _ string, groups []*swarmv1.Group) (uint64, []error, error) {
	var tasks []string
	for _, g := range groups {
		for _, c := range g.GetChanges() {
			tasks = append(tasks, c.GetPut().GetTaskStatus().GetTaskId())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries++
	if err := l.poison(tasks); err != nil {
		return 0, nil, err
	}
	l.commits = append(l.commits, tasks)
	results := make([]error, len(groups))
	for i, g := range groups {
		if l.reject != nil {
			results[i] = l.reject(g.GetChanges()[0])
		}
	}
	return 1, results, nil
}

// A rejected status does not make the committer repeat the description of the same entry, but a
// rejected description does.
func TestCommitter_RepeatsOnlyRejectedDescriptions(t *testing.T) {
	for name, rejected := range map[string]bool{"status rejected": false, "description rejected": true} {
		t.Run(name, func(t *testing.T) {
			view, sessions := nodes(1)
			c := newCommitter(slog.New(slog.DiscardHandler), &ledger{
				view: view, poison: func([]string) error { return nil },
				reject: func(change *swarmv1.Change) error {
					if isStatus := change.GetPut().GetTaskStatus() != nil; isStatus == rejected {
						return nil
					}
					return errdefs.ErrAborted.WithMessage("the row has changed")
				},
			})
			e := statusOf(sessions[0], 1)
			e.description = &swarmv1.NodeDescription{Hostname: "other"}
			if err := c.write(t.Context(), []*entry{e}); err != nil {
				t.Fatal(err)
			}
			again := c.waiting[sessions[0]]
			if (again != nil) != rejected || again != nil && (again.status != nil || again.description == nil) {
				t.Errorf("queued again: got %v, want the description: %v", again, rejected)
			}
			if !isAcked(sessions[0]) {
				t.Error("the status is not acknowledged")
			}
		})
	}
}

// stored returns the tasks whose status was committed, sorted.
func (l *ledger) stored() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tasks := range l.commits {
		all = append(all, tasks...)
	}
	slices.Sort(all)
	return all
}

// nodes returns n sessions, each of a node with one task.
func nodes(n int) (view *table.View, sessions []*session) {
	rows := make([]proto.Message, 0, 3*n)
	for i := range n {
		node, task := fmt.Sprintf("n%02d", i), fmt.Sprintf("t%02d", i)
		rows = append(rows, &swarmv1.Node{Id: node, Hostname: node}, &swarmv1.NodeState{NodeId: node, SessionEpoch: 1},
			&swarmv1.Task{Id: task, ServiceId: "s", NodeId: node, Revision: 1}, &swarmv1.TaskStatus{TaskId: task, State: swarmv1.TaskState_ASSIGNED})
		sessions = append(sessions, newSession(nil, &swarmv1.NodeState{NodeId: node, SessionEpoch: 1, Addr: node}, nil))
	}
	return raftstoretest.View(rows...), sessions
}

func statusOf(x *session, sequence uint64) *entry {
	return &entry{session: x, status: &swarmv1.StatusReport{Sequence: sequence, Updates: []*swarmv1.TaskStatus{{
		TaskId: "t" + x.node[1:], State: swarmv1.TaskState_RUNNING,
	}}}}
}

func isAcked(x *session) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.reportAcked > 0
}

// A report that the store rejects, with whatever error, is dropped and holds up no other report.
func TestCommitter_DropsPoison(t *testing.T) {
	for name, answer := range map[string]error{
		"as invalid":   errdefs.ErrInvalidArgument.WithMessage("a change has no key"),
		"as too large": errdefs.ErrResourceExhausted.WithMessage("larger than max"),
		// A follower that cannot send the report to the leader gets the same error as without a
		// leader.
		"as without a leader":   errdefs.ErrUnavailable.WithMessage("the leader does not answer"),
		"with an unknown error": fmt.Errorf("odd"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				view, sessions := nodes(20)
				l := &ledger{view: view, poison: func(tasks []string) error {
					if slices.Contains(tasks, "t07") {
						return answer
					}
					return nil
				}}
				c := newCommitter(slog.New(slog.DiscardHandler), l)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- c.run(ctx) }()
				for _, x := range sessions {
					c.add(statusOf(x, 1))
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				for _, x := range sessions {
					if bad := x.node == "n07"; isAcked(x) == bad {
						t.Errorf("node %s: acknowledged %v", x.node, isAcked(x))
					}
				}
				if sessions[7].reason() == nil && name != "as without a leader" && name != "with an unknown error" {
					t.Error("the session that the report came in goes on")
				}
				// Another report is committed. That shows that there is a leader, so that the first
				// one is dropped.
				c.add(statusOf(sessions[3], 2))
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if err := sessions[7].reason(); err == nil || !strings.Contains(err.Error(), "cannot be stored") {
					t.Errorf("the session that the report came in ended with %v", err)
				}
				tries := l.tries
				time.Sleep(time.Hour)
				synctest.Wait()
				if l.tries != tries {
					t.Errorf("the report is tried %d times more", l.tries-tries)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Without a leader no report is lost: all are committed once there is a leader.
func TestCommitter_WaitsForTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, sessions := nodes(20)
		began := time.Now()
		l := &ledger{view: view, poison: func([]string) error {
			if time.Since(began) < time.Minute {
				return errdefs.ErrUnavailable.WithMessage("the managers have no leader now")
			}
			return nil
		}}
		c := newCommitter(slog.New(slog.DiscardHandler), l)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.run(ctx) }()
		for _, x := range sessions {
			c.add(statusOf(x, 1))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := l.stored(); len(got) != len(sessions) {
			t.Errorf("stored after the leader's return: %v, want all %d", got, len(sessions))
		}
		for _, x := range sessions {
			if !isAcked(x) || x.reason() != nil {
				t.Errorf("node %s: acknowledged %v, ended with %v", x.node, isAcked(x), x.reason())
			}
		}
		cancel()
		<-done
	})
}

// Only the newest description of a worker waits and is committed, however many it sends.
func TestCommitter_KeepsTheNewestFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view, sessions := nodes(1)
		l := &ledger{view: view, poison: func([]string) error { return nil }}
		c := newCommitter(slog.New(slog.DiscardHandler), l)
		x := sessions[0]
		for i := range 1000 {
			c.add(&entry{session: x, description: &swarmv1.NodeDescription{Unavailable: fmt.Sprint(i)}})
			c.add(&entry{session: x, images: &swarmv1.ImageReport{}})
		}
		c.add(statusOf(x, 1))
		if len(c.queue) != 1 || len(c.waiting) != 1 {
			t.Errorf("%d entries wait, want 1", len(c.queue))
		}
		entries, _ := c.take()
		if len(entries) != 1 || entries[0].description.GetUnavailable() != "999" || entries[0].status == nil || entries[0].images == nil {
			t.Errorf("got %v, want all that the worker said, the newest of each kind", entries)
		}
		for range factsPace.Burst * 2 {
			c.add(&entry{session: x, description: &swarmv1.NodeDescription{}})
			c.take()
		}
		c.add(statusOf(x, 2))
		entries, wait := c.take()
		if len(entries) != 1 || entries[0].status == nil || entries[0].describesNode() || wait <= 0 {
			t.Errorf("got %v and a wait of %v, want the status alone, and the description later", entries, wait)
		}
		time.Sleep(wait)
		if entries, _ = c.take(); len(entries) != 1 || entries[0].description == nil {
			t.Errorf("got %v after the wait, want the description", entries)
		}
	})
}

// A node that opens one session after another cannot have more reports committed than one that
// keeps its session.
func TestCommitter_PacesNodesNotSessions(t *testing.T) {
	long := strings.Repeat("m", 4000)
	digests := func(from int) *swarmv1.ImageReport {
		r := &swarmv1.ImageReport{}
		for i := range 4096 {
			r.Held = append(r.Held, fmt.Sprintf("sha256:%064x", from+i))
		}
		return r
	}
	flip := []*swarmv1.ImageReport{digests(0), digests(1_000_000)}
	for name, tc := range map[string]struct {
		report func(i int, x *session) *entry
		most   int // reports of a minute
	}{
		"descriptions": {func(i int, x *session) *entry {
			return &entry{session: x, description: &swarmv1.NodeDescription{Unavailable: fmt.Sprint(i)}}
		}, 20 + 2*60},
		// 8 MiB at once, and 512 KiB a second.
		"statuses": {func(i int, x *session) *entry {
			e := statusOf(x, uint64(i))
			for range 100 {
				u := e.status.GetUpdates()[0].CloneVT()
				u.Message = long
				e.status.Updates = append(e.status.Updates, u)
			}
			return e
		}, (8<<20+60*512<<10)/400_000 + 1},
		// Each report makes 4,096 copies, because the view stays empty. Two reports are the burst,
		// and then 100 copies a second.
		"images": {func(i int, x *session) *entry { return &entry{session: x, images: flip[i%2]} }, 2 + 60*100/4096 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				view, sessions := nodes(2)
				l := &ledger{view: view, poison: func([]string) error { return nil }}
				c := newCommitter(slog.New(slog.DiscardHandler), l)
				taken, x := 0, sessions[0]
				for i := range 600 {
					x.close(nil)
					x = newSession(nil, &swarmv1.NodeState{NodeId: x.node, SessionEpoch: uint64(i + 1)}, nil)
					c.add(tc.report(i, x))
					for {
						entries, _ := c.take()
						if len(entries) == 0 {
							break
						}
						taken += len(entries)
						c.groups(view, entries)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if taken > tc.most || taken < tc.most-2 {
					t.Errorf("%d reports of a minute are committed, want %d", taken, tc.most)
				}
				if len(c.waiting) > 1 {
					t.Errorf("%d reports of sessions that are over wait", len(c.waiting)-1)
				}
				c.add(tc.report(1, sessions[1]))
				if entries, _ := c.take(); !slices.ContainsFunc(entries, func(e *entry) bool { return e.session == sessions[1] }) {
					t.Errorf("got %v, want the report of the other node", entries)
				}
			})
		})
	}
}

// A node that comes and goes all the time causes few log lines. A node that does it rarely causes a
// line each time.
func TestServer_NotesOfANodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(slog.NewTextHandler(&out, nil))
		s := &Server{log: log, notes: pace.New[string](pace.Budget{Burst: notesBurst, Period: notesPeriod})}
		for range 600 {
			s.note("n1", "session begins", "node", "n1")
			time.Sleep(100 * time.Millisecond)
		}
		s.note("n2", "session begins", "node", "n2")
		if n := strings.Count(out.String(), "node=n1"); n < notesBurst || n > notesBurst+3 {
			t.Errorf("the node writes %d lines a minute, want about %d", n, notesBurst)
		}
		if !strings.Contains(out.String(), "node=n2") {
			t.Error("another node writes no line")
		}
	})
}
