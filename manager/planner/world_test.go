package planner

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"swarm/internal/spec"
	"swarm/manager/dispatch"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	worldStep    = 100 * time.Millisecond
	worldBeat    = 500 * time.Millisecond
	worldTimeout = 2 * time.Second
	// worldGrace is longer than the lease: nothing in the world obeys its stop signal.
	worldGrace = 3 * time.Second
	worldDelay = 600 * time.Millisecond // of a message, at most
)

// world is a cluster whose parts hear of one another late or not at all: hosts run containers by what they were told last,
// the planner plans by a picture that lags behind the store, and the leader judges nodes by the heartbeats that it hears.
type world struct {
	*model
	*rand.Rand
	hosts map[string]*host
	joins int // hosts that ever were
	// lag are changes that the planner has not heard of; the first must of them it must hear before it plans again.
	lag  []change
	must int
	led  time.Time // since when the leader leads
	slow time.Duration
}

type change struct {
	index    uint64
	old, row proto.Message
}

// host is one machine: what it runs lives on when its daemon or runtime is dead, and when it is cut off.
type host struct {
	w                        *world
	id                       string
	linked, daemon, runtime  bool
	session, synced, removed bool
	greeted, silent, beaten  time.Time // session asked for, manager last heard, heartbeat last sent
	lease                    time.Time
	mail                     []letter // to and from the managers, in order
	known                    map[string]*swarmv1.Task
	containers               map[string]*container
	unsent                   map[string]swarmv1.TaskState
	heard                    time.Time // by the leader
	lost                     time.Time // when the managers took it for lost last
}

// letter is something that happens at a time if the host is linked then.
type letter struct {
	at   time.Time
	open func()
}

// container is a task's, whatever became of it.
type container struct {
	slot                      string
	writer                    bool
	state                     swarmv1.TaskState
	running, rejected, fenced bool
	// lost: its node was lost to the managers while it ran.
	lost                bool
	due, killed, burned time.Time // next step, end of the grace, end by the shim
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{model: newModel(t), Rand: rand.New(rand.NewPCG(seed, 4)), hosts: map[string]*host{}, led: epoch, slow: worldDelay}
	w.put(&swarmv1.Cluster{Id: "c", Spec: &swarmv1.ClusterSpec{Dispatcher: &swarmv1.DispatcherConfig{
		HeartbeatPeriod: durationpb.New(worldBeat), SessionTimeout: durationpb.New(worldTimeout),
	}}})
	w.model.fold = func(old, row proto.Message) { w.lag = append(w.lag, change{w.index, old, row}) }
	for range 3 {
		w.join()
	}
	return w
}

func (w *world) delay() time.Duration { return time.Duration(w.Int64N(int64(w.slow))) }

// rarely is true about once in so many steps.
func (w *world) rarely(steps int) bool { return w.IntN(steps) == 0 }

func (w *world) join() {
	w.joins++
	id := fmt.Sprintf("n%d", w.joins)
	w.addNode(id, func(_ *swarmv1.Node, s *swarmv1.NodeState) { s.State, s.SessionEpoch = swarmv1.NodeState_UNKNOWN, 0 })
	w.hosts[id] = &host{
		w: w, id: id, linked: true, daemon: true, runtime: true, heard: w.now, known: map[string]*swarmv1.Task{},
		containers: map[string]*container{}, unsent: map[string]swarmv1.TaskState{},
	}
}

func (w *world) sorted() []*host {
	out := make([]*host, 0, len(w.hosts))
	for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
		out = append(out, w.hosts[id])
	}
	return out
}

// step lets a moment pass.
func (w *world) step() {
	w.t.Helper()
	w.now = w.now.Add(worldStep)
	for _, h := range w.sorted() {
		h.deliver()
		h.talk()
		h.shim()
		h.work()
	}
	if !w.rarely(4) {
		w.judge()
	}
	if !w.rarely(3) {
		w.planLate()
	}
	w.checkWorld()
}

// planLate plans by what the planner has heard so far.
func (w *world) planLate() {
	w.t.Helper()
	n := w.must + w.IntN(len(w.lag)-w.must+1)
	for n > 0 && n < len(w.lag) && w.lag[n].index == w.lag[n-1].index {
		n++ // What was written together is heard of together.
	}
	for _, c := range w.lag[:n] {
		w.pic.fold(c.old, c.row)
	}
	w.lag, w.must = w.lag[n:], 0
	for _, g := range w.pic.Plan(w.pic.Due(w.now), w.now).Groups {
		if w.commit(g) != nil {
			w.pic.Retry(g.Service)
			continue
		}
		w.must = len(w.lag)
	}
}

// lead makes another manager the leader: it knows the store, and of no heartbeat.
func (w *world) lead() {
	w.model.lead()
	w.lag, w.must, w.led = nil, 0, w.now
}

// judge has the leader conclude which nodes are up.
func (w *world) judge() {
	for _, h := range w.sorted() {
		st, ok := w.rows["2/"+h.id].(*swarmv1.NodeState)
		if !ok || st.SessionEpoch == 0 {
			continue
		}
		leading := w.now.Sub(w.led)
		v := dispatch.Judge(dispatch.Evidence{
			State: st.State, Fenced: st.Fenced, Heard: min(w.now.Sub(h.heard), leading), Open: true, Leading: leading, Lease: st.Lease.AsDuration(),
		}, dispatch.Limits{Beat: worldBeat, Timeout: worldTimeout})
		if v.State == st.State && v.Fenced == st.Fenced {
			continue
		}
		st = st.CloneVT()
		st.State, st.Fenced = v.State, v.Fenced
		w.put(st)
		if v.State == swarmv1.NodeState_DOWN {
			h.lose()
		}
	}
}

// lose notes that the managers take the host's containers for lost.
func (h *host) lose() {
	h.lost = h.w.now
	for _, c := range h.containers {
		c.lost = true
	}
}

// post has something happen after a delay, in order.
func (h *host) post(open func()) {
	at := h.w.now.Add(h.w.delay())
	if n := len(h.mail); n > 0 && h.mail[n-1].at.After(at) {
		at = h.mail[n-1].at
	}
	h.mail = append(h.mail, letter{at, open})
}

func (h *host) deliver() {
	for h.linked && h.daemon && len(h.mail) > 0 && !h.mail[0].at.After(h.w.now) {
		open := h.mail[0].open
		h.mail = h.mail[1:]
		open()
	}
}

// talk keeps the host's session with the managers.
func (h *host) talk() {
	w := h.w
	switch {
	case !h.daemon || h.removed:
		return
	case h.session && w.now.Sub(h.silent) > 4*worldBeat:
		h.hangUp()
	case !h.session && h.linked && w.rarely(3):
		h.hello()
	case h.session && w.now.Sub(h.beaten) >= worldBeat:
		h.beaten = w.now
		sent := w.now
		h.post(func() {
			h.heard = w.now
			confirmed := w.rows["1/"+h.id] != nil // The leader confirms no heartbeat of a node that was removed.
			h.post(func() { h.confirm(sent, confirmed) })
		})
	}
	if h.session && h.synced {
		for _, id := range slices.Sorted(maps.Keys(h.unsent)) {
			state := h.unsent[id]
			delete(h.unsent, id)
			h.post(func() { h.reported(id, state) })
		}
	}
}

func (h *host) hangUp() { h.session, h.synced, h.mail = false, false, nil }

// hello begins a session: it is recorded, and then the node learns what it is to run.
func (h *host) hello() {
	w := h.w
	h.session, h.synced, h.greeted, h.silent, h.mail = true, false, w.now, w.now, nil
	h.post(func() {
		st, ok := w.rows["2/"+h.id].(*swarmv1.NodeState)
		if !ok {
			h.dismiss()
			return
		}
		st = st.CloneVT()
		st.SessionEpoch++
		st.State, st.Fenced, st.Lease = swarmv1.NodeState_READY, false, durationpb.New(worldTimeout)
		w.put(st)
		h.heard = w.now
		h.assign(true)
	})
}

// dismiss tells a host that it is no node any more.
func (h *host) dismiss() {
	h.post(func() { h.removed, h.session, h.known = true, false, map[string]*swarmv1.Task{} })
}

// assign sends what the store says now.
func (h *host) assign(complete bool) {
	tasks := map[string]*swarmv1.Task{}
	for _, t := range h.w.tasks() {
		if t.NodeId == h.id && h.w.status(t.Id).GetState() >= swarmv1.TaskState_ASSIGNED {
			tasks[t.Id] = t
		}
	}
	h.post(func() {
		h.silent, h.known = h.w.now, tasks
		if complete {
			h.synced, h.lease = true, h.greeted.Add(worldTimeout)
			for id, c := range h.containers { // What was on its way may be lost.
				h.unsent[id] = c.state
			}
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// confirm is what the worker does when a heartbeat was confirmed.
func (h *host) confirm(sent time.Time, confirmed bool) {
	h.silent = h.w.now
	switch {
	case h.w.rows["1/"+h.id] == nil:
		h.dismiss()
	case !h.synced || !confirmed:
	case !h.lease.After(h.w.now):
		h.hangUp()
	default:
		h.lease = later(h.lease, sent.Add(worldTimeout))
		h.assign(false)
	}
}

// reported stores what the worker says of a task.
func (h *host) reported(id string, state swarmv1.TaskState) {
	st := h.w.status(id)
	if t, ok := h.w.rows["5/"+id].(*swarmv1.Task); ok && t.NodeId == h.id && st.GetState() < state && st.GetState() <= swarmv1.TaskState_RUNNING {
		h.w.report(id, state)
	}
}

// shim ends containers whose lease has run out, soon after.
func (h *host) shim() {
	for _, id := range slices.Sorted(maps.Keys(h.containers)) {
		c := h.containers[id]
		if !c.running || !c.writer || h.lease.After(h.w.now) {
			c.burned = time.Time{}
			continue
		}
		if c.burned.IsZero() {
			c.burned = h.w.now.Add(time.Duration(h.w.Int64N(int64(spec.FenceMargin / 2))))
		}
		if !c.burned.After(h.w.now) {
			c.running, c.fenced = false, true
		}
	}
}

// work does the worker's next step on each task.
func (h *host) work() {
	if !h.daemon {
		return
	}
	ids := slices.Collect(maps.Keys(h.known))
	for id := range h.containers {
		if h.known[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		t := h.known[id]
		c := h.containers[id]
		if c == nil {
			c = h.accept(t)
		}
		if c.state <= swarmv1.TaskState_RUNNING {
			h.workOn(id, t, c)
		}
	}
}

func (h *host) accept(t *swarmv1.Task) *container {
	rev := h.w.rows[fmt.Sprintf("4/%s/%010d", t.ServiceId, t.Revision)].(*swarmv1.Revision)
	c := &container{
		slot: fmt.Sprintf("%s.%d", t.ServiceId, t.Slot), writer: rev.Spec.SingleWriter, state: swarmv1.TaskState_ASSIGNED,
		lost: !t.Meta.CreatedAt.AsTime().After(h.lost), rejected: h.w.rejects(t), due: h.w.now.Add(2 * h.w.delay()),
	}
	h.containers[t.Id] = c
	return c
}

func (h *host) workOn(id string, t *swarmv1.Task, c *container) {
	w := h.w
	leased := !c.writer || h.lease.Sub(w.now) > worldTimeout/4
	switch {
	case c.state == swarmv1.TaskState_RUNNING && !c.running: // its shim killed it, or the kill after the grace
		h.end(id, c, swarmv1.TaskState_FAILED)
	case t == nil || t.DesiredState > swarmv1.TaskState_RUNNING, c.state == swarmv1.TaskState_RUNNING && !leased, !c.killed.IsZero():
		h.halt(id, t, c)
	case w.now.Before(c.due) || !h.runtime:
	case c.state == swarmv1.TaskState_ASSIGNED && c.rejected:
		h.end(id, c, swarmv1.TaskState_REJECTED)
	case c.state == swarmv1.TaskState_ASSIGNED:
		c.state, h.unsent[id] = swarmv1.TaskState_READY, swarmv1.TaskState_READY
	case t.DesiredState == swarmv1.TaskState_READY:
	case c.state == swarmv1.TaskState_READY && leased: // The runtime is called, and takes a while.
		c.state, c.due = swarmv1.TaskState_STARTING, w.now.Add(w.delay()/2)
	case c.state == swarmv1.TaskState_STARTING && c.writer && !h.lease.After(w.now):
		h.end(id, c, swarmv1.TaskState_FAILED)
	case c.state == swarmv1.TaskState_STARTING:
		c.state, c.running, h.unsent[id] = swarmv1.TaskState_RUNNING, true, swarmv1.TaskState_RUNNING
	}
}

// halt stops a container: after its grace it is killed.
func (h *host) halt(id string, t *swarmv1.Task, c *container) {
	switch {
	case !c.running:
		h.end(id, c, swarmv1.TaskState_SHUTDOWN)
	case !h.runtime:
	case c.killed.IsZero():
		c.killed = h.w.now.Add(worldGrace)
	case !h.w.now.Before(c.killed):
		c.running = false
		state := swarmv1.TaskState_SHUTDOWN
		if t != nil && t.DesiredState == swarmv1.TaskState_RUNNING {
			state = swarmv1.TaskState_FAILED
		}
		h.end(id, c, state)
	}
}

func (h *host) end(id string, c *container, state swarmv1.TaskState) {
	c.state, h.unsent[id] = state, state
}

// checkWorld: no two containers of a slot of a single-writer service run at once while kernels run and the shim lives. Of
// another service that is updated stop-first no two run at once unless a node is lost.
func (w *world) checkWorld() {
	w.t.Helper()
	runs := map[string]string{}
	for _, h := range w.sorted() {
		for _, id := range slices.Sorted(maps.Keys(h.containers)) {
			c := h.containers[id]
			if !c.running || c.lost && !c.writer {
				continue
			}
			at := fmt.Sprintf("%s on %s", id, h.id)
			if other := runs[c.slot]; other != "" {
				w.t.Fatalf("slot %s: task %s runs beside %s after %s:\n%s", c.slot, at, other, w.now.Sub(epoch), w)
			}
			runs[c.slot] = at
		}
	}
}

func (w *world) setAvailability(id string, a swarmv1.NodeSpec_Availability) {
	w.setNode(id, func(n *swarmv1.Node) { n.Spec.Availability = a })
}
