package directory

import "slices"

// Report is what gossip, and the witness that doubts it, say at one moment.
type Report struct {
	// Dead nodes: they do not answer, or have left. Nodes that gossip does not know are not among them.
	Dead []string
	// Certain are those of them who are dead whatever else speaks against the report.
	Certain []string
	// Faulty: the fault is likely to be on this side, for our own probes go unanswered and unrefuted.
	Faulty bool
}

// Hear takes over which nodes are dead, unless the report is not to be believed: when it comes from a node that is itself in
// trouble, or when more than half of the other nodes vanished, it is likely us who stand still or are cut off, and what was known
// before is better. Nodes of whom it is certain, and those that came back, count at once in any case.
func (d *Directory) Hear(r Report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := make(map[string]bool, len(r.Dead))
	for _, id := range r.Dead {
		if _, known := d.peers[id]; known && id != d.self {
			now[id] = true
		}
	}
	if others := len(d.peers) - 1; r.Faulty || others > 1 && 2*len(now) > others {
		for id := range now {
			if !d.dead[id] && !slices.Contains(r.Certain, id) {
				delete(now, id)
			}
		}
	}
	for id := range now {
		if !d.dead[id] {
			d.touch(id)
		}
	}
	for id := range d.dead {
		if !now[id] {
			d.touch(id)
		}
	}
	d.dead = now
	d.wake()
}

// touch marks the services with a backend on a node.
func (d *Directory) touch(node string) {
	for _, t := range d.tasks {
		if t.GetNodeId() == node {
			d.dirty.Services[t.GetServiceId()] = true
		}
	}
}

// live marks the backends of a service that new connections may go to, and returns them. That all of a service's nodes are
// dead at once is taken for a fault of the report: a connection that fails is no worse than one that is refused.
func (d *Directory) live(all []Backend) []Backend {
	var ready, live []int
	for i, b := range all {
		if !b.GetReady() {
			continue
		}
		ready = append(ready, i)
		if !d.dead[b.GetNodeId()] {
			live = append(live, i)
		}
	}
	if len(live) == 0 {
		live = ready
	}
	out := make([]Backend, 0, len(live))
	for _, i := range live {
		all[i].Live = true
		out = append(out, all[i])
	}
	return out
}
