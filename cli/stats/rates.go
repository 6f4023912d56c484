package stats

import swarmv1 "swarm/proto/swarm/v1"

// Rates computes how much CPU tasks and nodes use, from the counters of two rounds. The zero value
// is ready to use. Its methods must not be called concurrently.
type Rates struct {
	before map[string]sample // by task or node
}

// sample is CPU time at a moment of the host's clock, both in nanoseconds.
type sample struct {
	clock               int64
	cpu, received, sent uint64
}

// Load is how much a task or a node uses. At the first look at a container it is not known.
type Load struct {
	// CPU is in percent of one CPU.
	CPU float64
	// Received and Sent are bytes a second. Those of nodes are 0.
	Received, Sent float64
	Known          bool
}

// Round returns the loads of the tasks and nodes in a round, by id, and remembers the counters for
// the next round.
func (r *Rates) Round(m *swarmv1.WatchStatsResponse) map[string]Load {
	now := make(map[string]sample, len(m.GetTasks())+len(m.GetNodes()))
	for _, t := range m.GetTasks() {
		if u := t.GetUsage(); u != nil {
			now[t.GetTaskId()] = sample{u.GetClock(), u.GetCpu(), u.GetReceived(), u.GetSent()}
		}
	}
	for _, n := range m.GetNodes() {
		if u := n.GetUsage(); u != nil {
			now[n.GetNodeId()] = sample{clock: u.GetClock(), cpu: u.GetCpu()}
		}
	}
	out := make(map[string]Load, len(now))
	for id, s := range now {
		out[id] = s.since(r.before, id)
	}
	r.before = now
	return out
}

// since returns the load since the sample before. It is not known if there is none, if somebody has
// set the clock of the host back, or if the counter began again.
func (s sample) since(before map[string]sample, id string) Load {
	b, ok := before[id]
	if !ok || s.clock <= b.clock || s.cpu < b.cpu {
		return Load{}
	}
	took := float64(s.clock - b.clock)
	rate := func(before, now uint64) float64 {
		if now < before { // The traffic could not be read once.
			return 0
		}
		return float64(now-before) / took * 1e9
	}
	return Load{CPU: float64(s.cpu-b.cpu) / took * 100, Received: rate(b.received, s.received), Sent: rate(b.sent, s.sent), Known: true}
}
