package planner

// raised is what this plan lets a running task reserve more of its node.
type raised struct {
	node        *node
	cpu, memory int64
}

// limits moves tasks that differ from the current revision in their limits alone to it: their workers change the running
// containers. A task whose node lacks what it would reserve more stays as it is, outdated; so does one that no node has:
// nothing stops when it is made anew.
func (r *run) limits() {
	for i := range r.views {
		v := &r.views[i]
		t := v.head
		if v.act != keep || t == nil || !r.limitsDiffer(t) {
			continue
		}
		if t.unplaced() {
			if r.svc.job() { // which no update renews
				v.act = replace
			}
			continue
		}
		more := raised{t.node, max(0, r.cur.need.cpu-t.rev.need.cpu), max(0, r.cur.need.memory-t.rev.need.memory)}
		if t.holds && !t.node.holds(more) {
			continue
		}
		t.node.used.cpu += more.cpu
		t.node.used.memory += more.memory
		r.raised = append(r.raised, more)
		r.out.atom = i + 1
		r.out.edit(t).Revision = r.cur.row.GetNumber()
		v.moved = true
	}
}

// limitsDiffer says whether limits are all that the task lacks.
func (r *run) limitsDiffer(t *task) bool {
	return t.rev.row != nil && t.rev.template() == r.cur.template() && t.rev.limits != r.cur.limits && !t.ended()
}

// holds says whether the node has room for what is reserved more.
func (n *node) holds(more raised) bool {
	return (more.cpu == 0 || n.used.cpu+more.cpu <= n.capacity.cpu) &&
		(more.memory == 0 || n.used.memory+more.memory <= n.capacity.memory)
}

// outdated says whether the slot's task, its head or what it held last, must be replaced for the slot to be as the current
// revision wants it.
func (r *run) outdated(v *view, t *task) bool {
	switch {
	case t.rev.template() != r.cur.template():
		return true
	case v.head == nil || v.moved || t.ended():
		return false
	case t.status.GetRefusedRevision() != 0 && t.status.GetRefusedRevision() == t.row.GetRevision():
		return true
	}
	return r.limitsDiffer(t)
}

// lower takes back what limits raised.
func (r *run) lower() {
	for _, m := range r.raised {
		m.node.used.cpu -= m.cpu
		m.node.used.memory -= m.memory
	}
}
