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
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	worldStep    = 100 * time.Millisecond
	worldBeat    = 500 * time.Millisecond
	worldTimeout = 2 * time.Second
	// worldGrace is longer than the lease. No container in the world obeys its stop signal.
	worldGrace = 3 * time.Second
	worldDelay = 600 * time.Millisecond // of a message, at most
)

// world is a cluster whose parts receive messages late or not at all. Hosts run containers by the
// last assignment they received, the planner's state is behind the store, and the leader judges
// nodes by the heartbeats it receives.
type world struct {
	*model
	*rand.Rand
	hosts map[string]*host
	joins int // number of hosts so far
	// undelivered holds the changes that the planner has not received. It must receive the first
	// mustDeliver of them before it plans again.
	undelivered []change
	mustDeliver int
	ledSince    time.Time // when the leader began to lead
	maxDelay    time.Duration
}

type change struct {
	index    uint64
	old, row proto.Message
}

// host is one machine. Its containers continue to run while its daemon or runtime is dead, or its
// link is cut.
type host struct {
	w                        *world
	id                       string
	linked, daemon, runtime  bool
	session, synced, removed bool
	greeted, silent, beaten  time.Time // session requested, manager last heard, heartbeat last sent
	lease                    time.Time
	messages                 []message // to and from the managers, in order
	known                    map[string]*swarmv1.Task
	containers               map[string]*container
	unsent                   map[string]swarmv1.TaskState
	heard                    time.Time // when the leader last heard the host
	lost                     time.Time // when the managers last took the host for lost
}

// message is an action at a given time, which happens if the host is linked then.
type message struct {
	at     time.Time
	action func()
}

// container is the container of a task, in any state.
type container struct {
	slot                      string
	writer                    bool
	state                     swarmv1.TaskState
	running, rejected, fenced bool
	// lost: the managers took the node for lost while the container ran.
	lost                bool
	due, killed, burned time.Time // next step, end of the grace period, kill by the shim
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{model: newModel(t), Rand: rand.New(rand.NewPCG(seed, 4)), hosts: map[string]*host{}, ledSince: epoch, maxDelay: worldDelay}
	w.put(&swarmv1.Cluster{Id: "c", Spec: &swarmv1.ClusterSpec{Dispatcher: &swarmv1.DispatcherConfig{
		HeartbeatPeriod: durationpb.New(worldBeat), SessionTimeout: durationpb.New(worldTimeout),
	}}})
	w.model.fold = func(old, row proto.Message) { w.undelivered = append(w.undelivered, change{w.index, old, row}) }
	for range 3 {
		w.join()
	}
	return w
}

func (w *world) delay() time.Duration { return time.Duration(w.Int64N(int64(w.maxDelay))) }

// rarely is true about once in the given number of steps.
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

// step advances the time by worldStep.
func (w *world) step() {
	w.t.Helper()
	w.now = w.now.Add(worldStep)
	for _, h := range w.sorted() {
		h.deliver()
		h.keepSession()
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

// planLate plans with the changes that the planner has received so far.
func (w *world) planLate() {
	w.t.Helper()
	n := w.mustDeliver + w.IntN(len(w.undelivered)-w.mustDeliver+1)
	for n > 0 && n < len(w.undelivered) && w.undelivered[n].index == w.undelivered[n-1].index {
		n++ // Changes with one index arrive together.
	}
	for _, c := range w.undelivered[:n] {
		w.apply(c.old, c.row)
	}
	w.undelivered, w.mustDeliver = w.undelivered[n:], 0
	for _, g := range w.planner.Plan(w.state.Due(w.now), w.now).Groups {
		if w.commit(g) != nil {
			w.state.Retry(g.Service)
			continue
		}
		w.mustDeliver = len(w.undelivered)
	}
}

// changeLeader makes another manager the leader. It knows the store and no heartbeats.
func (w *world) changeLeader() {
	w.model.changeLeader()
	w.undelivered, w.mustDeliver, w.ledSince = nil, 0, w.now
}

// judge lets the leader decide which nodes are up.
func (w *world) judge() {
	for _, h := range w.sorted() {
		st, ok := w.rows["2/"+h.id].(*swarmv1.NodeState)
		if !ok || st.SessionEpoch == 0 {
			continue
		}
		leading := w.now.Sub(w.ledSince)
		v := liveness.Judge(liveness.Evidence{
			State: st.State, Fenced: st.Fenced, Heard: min(w.now.Sub(h.heard), leading), Open: true, Leading: leading, Lease: st.Lease.AsDuration(),
		}, liveness.Limits{Beat: worldBeat, Timeout: worldTimeout})
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

// lose records that the managers take the host's containers for lost.
func (h *host) lose() {
	h.lost = h.w.now
	for _, c := range h.containers {
		c.lost = true
	}
}

// post schedules an action after a delay. Actions of one host keep their order.
func (h *host) post(action func()) {
	at := h.w.now.Add(h.w.delay())
	if n := len(h.messages); n > 0 && h.messages[n-1].at.After(at) {
		at = h.messages[n-1].at
	}
	h.messages = append(h.messages, message{at, action})
}

func (h *host) deliver() {
	for h.linked && h.daemon && len(h.messages) > 0 && !h.messages[0].at.After(h.w.now) {
		action := h.messages[0].action
		h.messages = h.messages[1:]
		action()
	}
}

// keepSession keeps the host's session with the managers.
func (h *host) keepSession() {
	w := h.w
	switch {
	case !h.daemon || h.removed:
		return
	case h.session && w.now.Sub(h.silent) > 4*worldBeat:
		h.closeSession()
	case !h.session && h.linked && w.rarely(3):
		h.openSession()
	case h.session && w.now.Sub(h.beaten) >= worldBeat:
		h.beaten = w.now
		sent := w.now
		h.post(func() {
			h.heard = w.now
			// The leader does not confirm heartbeats of a removed node.
			confirmed := w.rows["1/"+h.id] != nil
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

func (h *host) closeSession() { h.session, h.synced, h.messages = false, false, nil }

// openSession opens a session: the managers record it, and then send the host its tasks.
func (h *host) openSession() {
	w := h.w
	h.session, h.synced, h.greeted, h.silent, h.messages = true, false, w.now, w.now, nil
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

// dismiss tells a host that its node was removed.
func (h *host) dismiss() {
	h.post(func() { h.removed, h.session, h.known = true, false, map[string]*swarmv1.Task{} })
}

// assign sends the host the tasks that the store has for it now.
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
			for id, c := range h.containers { // Reports that were on their way may be lost.
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

// confirm acts as a worker does when a heartbeat was confirmed.
func (h *host) confirm(sent time.Time, confirmed bool) {
	h.silent = h.w.now
	switch {
	case h.w.rows["1/"+h.id] == nil:
		h.dismiss()
	case !h.synced || !confirmed:
	case !h.lease.After(h.w.now):
		h.closeSession()
	default:
		h.lease = later(h.lease, sent.Add(worldTimeout))
		h.assign(false)
	}
}

// reported stores a worker's report about a task.
func (h *host) reported(id string, state swarmv1.TaskState) {
	st := h.w.status(id)
	if t, ok := h.w.rows["5/"+id].(*swarmv1.Task); ok && t.NodeId == h.id && st.GetState() < state && st.GetState() <= swarmv1.TaskState_RUNNING {
		h.w.report(id, state)
	}
}

// shim kills the containers whose lease has expired, after a short delay.
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
	// killed by its shim, or after the grace period
	case c.state == swarmv1.TaskState_RUNNING && !c.running:
		h.end(id, c, swarmv1.TaskState_FAILED)
	case t == nil || t.DesiredState > swarmv1.TaskState_RUNNING, c.state == swarmv1.TaskState_RUNNING && !leased, !c.killed.IsZero():
		h.stopContainer(id, t, c)
	case w.now.Before(c.due) || !h.runtime:
	case c.state == swarmv1.TaskState_ASSIGNED && c.rejected:
		h.end(id, c, swarmv1.TaskState_REJECTED)
	case c.state == swarmv1.TaskState_ASSIGNED:
		c.state, h.unsent[id] = swarmv1.TaskState_READY, swarmv1.TaskState_READY
	case t.DesiredState == swarmv1.TaskState_READY:
	case c.state == swarmv1.TaskState_READY && leased: // The call to the runtime takes a while.
		c.state, c.due = swarmv1.TaskState_STARTING, w.now.Add(w.delay()/2)
	case c.state == swarmv1.TaskState_STARTING && c.writer && !h.lease.After(w.now):
		h.end(id, c, swarmv1.TaskState_FAILED)
	case c.state == swarmv1.TaskState_STARTING:
		c.state, c.running, h.unsent[id] = swarmv1.TaskState_RUNNING, true, swarmv1.TaskState_RUNNING
	}
}

// stopContainer stops a container, and kills it after its grace period.
func (h *host) stopContainer(id string, t *swarmv1.Task, c *container) {
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

// checkWorld tests that no two containers of a slot of a single-writer service run at once, as long
// as the kernel and the shim live. For a stop-first service it tests the same, except for
// containers on lost nodes.
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
