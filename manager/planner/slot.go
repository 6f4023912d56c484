package planner

import (
	"slices"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// action is what a plan does with a slot.
type action uint8

const (
	// keep: the slot is as it should be.
	keep action = iota
	// fill: the slot holds no task and should.
	fill
	// finished: its last task ended and its restart policy wants no other.
	finished
	// restart: its task ended by itself; another follows after the policy's delay.
	restart
	// replace: its task must leave its node; the next one starts once this one has stopped.
	replace
	// rescue: its node is lost; the next one starts at once, a single-writer one once the node is fenced.
	rescue
	// renew: its task is outdated and its turn has come.
	renew
	// stop: its task must stop and none follows, but the slot stays known (global services).
	stop
	// drop: the slot is not wanted.
	drop
)

// view is a slot as one plan sees it.
type view struct {
	slot *slot
	// head is the task that the slot lives by; nil when no task of it is live.
	head *task
	// older is what head is about to replace while both run (start-first).
	older *task
	act   action
	// moved: head is given the current revision's limits where it runs.
	moved bool
	// reason stands in the status of what follows.
	reason string
}

// look judges every slot of the service on its own.
func (r *run) look() {
	for _, s := range r.svc.ordered() {
		r.views = append(r.views, r.judge(s))
	}
}

func (r *run) judge(s *slot) view {
	v := view{slot: s}
	for _, t := range s.tasks {
		if t.live() {
			if v.head != nil {
				v.older = v.head
			}
			v.head = t
		}
	}
	if v.head == nil {
		return r.judgeDead(v)
	}
	if v.older != nil {
		v = r.judgePair(v)
	}
	v.act, v.reason = r.judgeHead(v.head)
	return v
}

// judgePair settles which of two live tasks stays. The older one runs on while a start-first replacement comes up.
func (r *run) judgePair(v view) view {
	head, older := v.head, v.older
	linked := head.row.GetReplaces() == older.id
	if act, _ := r.judgeHead(older); linked && act == keep && r.mayRun(older) && !head.running() {
		if older.rev.template() == r.cur.template() && head.rev.template() != r.cur.template() {
			// Rolled back before the new task was up: the old one is what is wanted.
			r.shutdown(head)
			v.head, v.older = older, nil
		} else if !r.startFirst() && head.status.GetUnplaced() != nil && head.rev.template() == r.cur.template() {
			// The order is stop-first by now: what the old one holds may be what the new one waits for.
			r.shutdown(older)
			r.out.edit(head).DesiredState = swarmv1.TaskState_READY
			v.older = nil
		}
		return v
	}
	for _, t := range v.slot.tasks {
		if t.live() && t != head {
			r.shutdown(t)
		}
	}
	v.older = nil
	return v
}

func (r *run) judgeHead(t *task) (action, string) {
	switch {
	case t.state() == swarmv1.TaskState_SHUTDOWN:
		// Nobody here asked it to stop: its host went down, which is not the task's doing and counts as no restart.
		return rescue, "its node went down"
	case t.ended():
		return r.judgeEnd(t)
	case t.unplaced() && t.node == nil:
		return keep, ""
	case t.node == nil:
		return rescue, "no node has it"
	case t.node.gone():
		return rescue, "its node was removed"
	case t.node.down():
		return rescue, "node " + t.node.name() + " is down"
	case t.node.draining():
		return replace, "node " + t.node.name() + " is being drained"
	}
	if !t.rev.suits(t.node) {
		return replace, "node " + t.node.name() + " no longer satisfies the constraints"
	}
	return keep, ""
}

func (r *run) judgeEnd(t *task) (action, string) {
	if r.svc.job() && t.state() == swarmv1.TaskState_COMPLETE {
		return finished, ""
	}
	if !t.rev.restart.allows(t, r.p.reportedAt(t)) {
		return finished, ""
	}
	return restart, ""
}

// judgeDead: a slot whose tasks all should be stopped. Its history says whether one should follow.
func (r *run) judgeDead(v view) view {
	t := v.slot.newest()
	v.act = fill
	byItself := t.state() == swarmv1.TaskState_COMPLETE || t.failure()
	if t.desired() == swarmv1.TaskState_SHUTDOWN && byItself {
		if act, _ := r.judgeEnd(t); act == finished {
			v.act = finished
		}
	}
	if t.desired() == swarmv1.TaskState_REMOVE {
		v.act = drop
	}
	return v
}

// act carries out what was decided for every slot.
func (r *run) act() {
	for i := range r.views {
		v := &r.views[i]
		r.out.atom = i + 1
		switch v.act {
		case keep:
			r.promote(v)
		case finished:
			if v.head != nil {
				r.shutdown(v.head)
			}
		case drop:
			r.removeSlot(v.slot)
		case stop:
			r.shutdown(v.head)
		case fill:
			r.follow(v, v.slot.newest())
		case restart, replace, rescue, renew:
			r.succeed(v)
		}
	}
}

// promote lets a task that waited for its predecessors run.
func (r *run) promote(v *view) {
	t := v.head
	if t == nil || t.desired() != swarmv1.TaskState_READY || r.pending(r.p.startAfter(t)) || !r.mayStart(v.slot, t, v.older) {
		return
	}
	r.out.edit(t).DesiredState = swarmv1.TaskState_RUNNING
}

// succeed replaces the slot's task by another.
func (r *run) succeed(v *view) {
	t := v.head
	w := r.want(v.slot.key, t)
	w.reason, w.atom = v.reason, r.out.atom
	if v.act == restart && w.rev.template() == t.rev.template() {
		w.restarts, w.startAfter = t.rev.restart.next(t, r.now)
		// What was rejected once is likely to be again; what has run is prepared meanwhile, and keeps its room.
		w.later = t.state() == swarmv1.TaskState_REJECTED && !lacksImage(t)
	}
	stays := v.older // It runs on until the new task is RUNNING; then judgePair stops it.
	switch {
	case v.act == renew && !r.startFirst():
		stays = nil // The update before may have been start-first; this one is not.
	case v.act == renew && stays == nil && r.mayRun(t):
		stays = t
	}
	for _, o := range []*task{v.older, t} {
		if o != nil && o != stays {
			r.shutdown(o)
		}
	}
	if v.older != nil {
		w.replaces = v.older.id // The head may be forgotten: no node has had it.
	}
	if r.pending(w.startAfter) || !r.mayStart(v.slot, nil, stays) {
		w.desired = swarmv1.TaskState_READY
	}
	r.wants = append(r.wants, w)
}

// follow fills a slot whose tasks have all been told to stop.
func (r *run) follow(v *view, t *task) {
	w := r.want(v.slot.key, t)
	w.atom = r.out.atom
	if !r.mayStart(v.slot, nil, nil) {
		w.desired = swarmv1.TaskState_READY
	}
	r.wants = append(r.wants, w)
}

// mayStart says whether a task of the slot may start: t, or for nil one that this plan makes. No other task of the slot
// may still run, except the one beside which it comes up (start-first; nil: none). Until then the task is kept READY.
func (r *run) mayStart(s *slot, t, beside *task) bool {
	return !slices.ContainsFunc(s.tasks, func(o *task) bool { return o != t && o != beside && r.mayRun(o) })
}

// mayRun says whether a container of the task may run, as far as the cluster can know. A task on a lost node counts as not
// running. A single-writer task there counts as running until it has been told to stop and the node is fenced, in this
// order: a node that comes back gets its lease only together with that word, so it cannot run the task again.
func (r *run) mayRun(t *task) bool {
	switch {
	case t.ended() || t.unplaced() || t.node == nil:
		return false
	case !t.node.lost():
		return true
	case !t.rev.spec().GetSingleWriter():
		return false
	}
	return t.live() || !r.fenced(t.node)
}

// fenced says whether the lease of a lost node's single-writer tasks has run out, so that their shims have killed them. Of
// a member the leader says it. A node that was removed may have had its lease renewed until this leader saw it go.
func (r *run) fenced(n *node) bool {
	switch {
	case !n.gone():
		return n.state.GetFenced()
	case n.removed.IsZero():
		return false
	}
	at := n.removed.Add(max(n.lease, r.p.lease) + spec.FenceMargin)
	if at.After(r.now) {
		r.wake(at)
		return false
	}
	return true
}

// want is a new task of the current revision; t is the task it follows, nil for none.
func (r *run) want(k slotKey, t *task) want {
	w := want{key: k, ordinal: 1, rev: r.successor(t), desired: swarmv1.TaskState_RUNNING}
	if t != nil {
		w.id, w.ordinal, w.replaces = idNext(t.slot), t.slot.newest().row.GetOrdinal()+1, t.id
		if w.rev.template() == t.rev.template() {
			w.restarts = t.row.GetRestarts()
		}
	} else {
		w.id = idFirst(r.svc, k)
	}
	if k.node != "" {
		w.node = r.p.nodes[k.node]
	}
	return w
}

// successor is the revision of the task that follows t: the current one, except that a paused update does not go on by
// way of tasks that had to be replaced anyway.
func (r *run) successor(t *task) *revision {
	if t != nil && t.rev.row != nil && r.paused() {
		return t.rev
	}
	return r.cur
}

// shutdown stops a task and keeps its row as history. A task that no node has is forgotten instead.
func (r *run) shutdown(t *task) {
	switch {
	case t.unplaced(), t.node != nil && t.node.gone() && !t.ended() && !r.mayRun(t):
		r.erase(t)
	case t.live():
		if row := r.out.edit(t); row.GetDesiredState() < swarmv1.TaskState_SHUTDOWN {
			row.DesiredState = swarmv1.TaskState_SHUTDOWN
			r.leave(t)
		}
	}
}

// orphanAfter is how long a lost node may take to come back and say what became of its tasks (Docker: 24 h).
const orphanAfter = 24 * time.Hour

// reap trims the slots' histories to what the cluster keeps, frees what ended tasks had claimed, and gives up on tasks
// whose node has been lost for too long.
func (r *run) reap() {
	for i := range r.views {
		v := &r.views[i]
		if v.act == drop || len(v.slot.tasks) == 1 && !v.slot.tasks[0].ended() {
			continue
		}
		r.out.atom = i + 1
		r.reapSlot(v)
	}
}

func (r *run) reapSlot(v *view) {
	newest := v.slot.newest()
	dead := 0
	for _, t := range slices.Backward(v.slot.tasks) {
		if t.ended() {
			r.release(t)
		}
		if t.live() || r.freed[t.id] {
			continue
		}
		switch {
		case r.mayRun(t):
			continue
		case t.node != nil && t.node.gone() && !t.ended() && t != newest:
			r.erase(t)
			continue
		case t.node != nil && t.node.down() && !t.ended():
			r.orphan(t)
			continue
		case t.desired() == swarmv1.TaskState_REMOVE && t != newest:
			r.erase(t)
			continue
		}
		if dead++; dead > r.p.history && t != newest {
			r.erase(t)
		}
	}
}

// orphan ends a task of a node that is down, once that has lasted too long; until then the node may report.
func (r *run) orphan(t *task) {
	at := r.p.clip(t.node.downSince(), t.node.state.GetMeta()).Add(orphanAfter)
	if at.After(r.now) {
		r.wake(at)
		return
	}
	if t.status == nil {
		return
	}
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Ready, st.Message = swarmv1.TaskState_ORPHANED, r.nowpb, false, "node has been down for too long"
}

// release gives back what an ended task had claimed.
func (r *run) release(t *task) {
	for _, c := range r.p.claims[t.id] {
		if !r.freed[c.GetKey()] {
			r.free(c.GetKey())
			r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
		}
	}
}

// erase deletes the rows of a task.
func (r *run) erase(t *task) {
	if r.freed[t.id] {
		return
	}
	r.free(t.id)
	r.out.deleteTask(t)
	r.release(t)
}

func (r *run) free(key string) {
	if r.freed == nil {
		r.freed = map[string]bool{}
	}
	r.freed[key] = true
}
