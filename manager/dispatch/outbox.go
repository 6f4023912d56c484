package dispatch

import (
	"fmt"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// outbox knows what a node has been sent, and computes what it must be sent next. A dependency (a revision, secret,
// config, network, endpoint) is sent before the first task that needs it, and taken back after the last; what the overlay
// has to know comes before the tasks of the same message.
// It belongs to the session's sending goroutine.
type outbox struct {
	node    string
	tasks   map[string]sent
	counts  map[ref]int       // tasks that need it
	version map[ref]uint64    // of what was sent
	images  map[string]uint64 // kept image id -> version
	keys    map[string]bool   // key id -> on standby
	chart   chart
}

type sent struct {
	version uint64
	deps    []ref
}

func newOutbox(node string) *outbox {
	return &outbox{
		node: node, tasks: make(map[string]sent), counts: make(map[ref]int), version: make(map[ref]uint64),
		images: make(map[string]uint64), keys: make(map[string]bool), chart: newChart(),
	}
}

// delta gathers one message in the order in which the worker needs it.
type delta struct {
	deps, tasks, taskRefs, depRefs []*swarmv1.AssignmentChange
	released                       []ref
}

func (d *delta) changes() []*swarmv1.AssignmentChange {
	return slices.Concat(d.deps, d.tasks, d.taskRefs, d.depRefs)
}

func put(a *swarmv1.Assignment) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: a}}
}

func drop(r ref) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: r.kind, Id: r.id}}}
}

// complete forgets what was sent and gives all that the node needs.
func (o *outbox) complete(view *raftstore.View, a *atlas, keep []string) []*swarmv1.AssignmentChange {
	*o = *newOutbox(o.node)
	d := &delta{}
	o.syncKeys(d, view)
	o.syncImages(d, view, keep)
	o.syncIngress(d, view)
	o.whole(d, a)
	for t := range view.TasksOnNode(o.node) {
		o.task(d, view, t.GetId())
	}
	return o.finish(d)
}

// update looks again at what the marks name.
func (o *outbox) update(view *raftstore.View, a *atlas, dirty []ref, keep []string) []*swarmv1.AssignmentChange {
	d := &delta{}
	for _, r := range dirty {
		if o.look(d, a, r) {
			continue
		}
		switch r.kind {
		case swarmv1.AssignmentRef_TASK:
			o.task(d, view, r.id)
		case swarmv1.AssignmentRef_KEY:
			o.syncKeys(d, view)
		case kindImages:
			o.syncImages(d, view, keep)
		case kindNode:
		case kindIngress:
			o.syncIngress(d, view)
		default:
			if o.counts[r] > 0 {
				o.send(d, view, r)
			}
		}
	}
	return o.finish(d)
}

// finish takes back what no task needs any more, once all tasks have had their say.
func (o *outbox) finish(d *delta) []*swarmv1.AssignmentChange {
	for _, r := range d.released {
		if o.counts[r] > 0 {
			continue
		}
		delete(o.counts, r)
		if _, was := o.version[r]; was {
			delete(o.version, r)
			d.depRefs = append(d.depRefs, drop(r))
		}
	}
	return d.changes()
}

func (o *outbox) task(d *delta, view *raftstore.View, id string) {
	before, had := o.tasks[id]
	t, ok := present(view.Tasks.Get(id))
	// A global service's task names its node while it waits for room there: its slot is the node.
	if waits := view.Status(id); waits != nil && waits.GetState() < swarmv1.TaskState_ASSIGNED {
		ok = false
	}
	if !ok || t.GetNodeId() != o.node {
		if had {
			delete(o.tasks, id)
			d.taskRefs = append(d.taskRefs, drop(ref{kind: swarmv1.AssignmentRef_TASK, id: id}))
			o.release(d, before.deps)
		}
		return
	}
	if had && before.version == t.GetMeta().GetVersion() {
		return
	}
	deps := depsOf(view, t)
	for _, r := range deps {
		o.counts[r]++
		if o.counts[r] == 1 {
			o.send(d, view, r)
		}
	}
	o.release(d, before.deps)
	o.tasks[id] = sent{version: t.GetMeta().GetVersion(), deps: deps}
	d.tasks = append(d.tasks, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: ended(view, t)}}))
}

// ended keeps a worker that has lost its disk from starting again what has ended: such a task is only to be kept as
// history, whether or not the planner has said so yet.
func ended(view *raftstore.View, t *swarmv1.Task) *swarmv1.Task {
	if view.Status(t.GetId()).GetState() > swarmv1.TaskState_RUNNING && t.GetDesiredState() < swarmv1.TaskState_COMPLETE {
		t = t.CloneVT()
		t.DesiredState = swarmv1.TaskState_SHUTDOWN
	}
	return t
}

func (o *outbox) release(d *delta, deps []ref) {
	for _, r := range deps {
		o.counts[r]--
	}
	d.released = append(d.released, deps...)
}

// send puts a dependency when the node does not have this version of it, and takes it back when it is gone.
func (o *outbox) send(d *delta, view *raftstore.View, r ref) {
	a, version := lookup(view, r)
	had, was := o.version[r]
	switch {
	case a == nil && was:
		delete(o.version, r)
		d.depRefs = append(d.depRefs, drop(r))
	case a != nil && (!was || had != version):
		o.version[r] = version
		d.deps = append(d.deps, put(a))
	}
}

// lookup is the assignment that a reference names, nil when there is no such row.
func lookup(view *raftstore.View, r ref) (*swarmv1.Assignment, uint64) {
	switch r.kind {
	case swarmv1.AssignmentRef_REVISION:
		if row, ok := present(view.Revisions.Get(r.id)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Revision{Revision: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_SECRET:
		if row, ok := present(view.Secrets.Get(r.id)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Secret{Secret: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_CONFIG:
		if row, ok := present(view.Configs.Get(r.id)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Config{Config: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_NETWORK:
		if row, ok := present(view.Networks.Get(r.id)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_ENDPOINT:
		if row, ok := present(view.Endpoints.Get(r.id)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Endpoint{Endpoint: row}}, row.GetMeta().GetVersion()
		}
	}
	return nil, 0
}

// depsOf is what a worker needs to run a task, without duplicates. Rows that do not exist are named too: they may come.
func depsOf(view *raftstore.View, t *swarmv1.Task) []ref {
	key := raftstore.Key(&swarmv1.Revision{ServiceId: t.GetServiceId(), Number: t.GetRevision()})
	deps := []ref{{kind: swarmv1.AssignmentRef_REVISION, id: key}, {kind: swarmv1.AssignmentRef_ENDPOINT, id: t.GetServiceId()}}
	rev, _ := view.Revisions.Get(key)
	template := rev.GetSpec().GetTaskTemplate()
	for _, s := range template.GetContainerSpec().GetSecrets() {
		deps = append(deps, ref{kind: swarmv1.AssignmentRef_SECRET, id: s.GetSecretId()})
	}
	for _, c := range template.GetContainerSpec().GetConfigs() {
		deps = append(deps, ref{kind: swarmv1.AssignmentRef_CONFIG, id: c.GetConfigId()})
	}
	for _, n := range t.GetNetworks() {
		deps = append(deps, ref{kind: swarmv1.AssignmentRef_NETWORK, id: n.GetNetworkId()})
	}
	for _, n := range template.GetNetworks() {
		deps = append(deps, ref{kind: swarmv1.AssignmentRef_NETWORK, id: n.GetTarget()})
	}
	seen := make(map[ref]bool, len(deps))
	return slices.DeleteFunc(deps, func(r ref) bool {
		double := seen[r]
		seen[r] = true
		return double
	})
}

func (o *outbox) syncKeys(d *delta, view *raftstore.View) {
	now := make(map[string]bool)
	for _, k := range view.Cluster().GetGossipKeys() {
		id := KeyID(k)
		now[id] = k.GetStandby()
		if standby, ok := o.keys[id]; !ok || standby != now[id] {
			d.deps = append(d.deps, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Key{Key: k}}))
		}
	}
	for id := range o.keys {
		if _, ok := now[id]; !ok {
			d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_KEY, id: id}))
		}
	}
	o.keys = now
}

// KeyID is how an AssignmentRef names an encryption key.
func KeyID(k *swarmv1.EncryptionKey) string {
	return fmt.Sprintf("%s/%d", k.GetSubsystem(), k.GetLamportTime())
}

func (o *outbox) syncImages(d *delta, view *raftstore.View, keep []string) {
	now := make(map[string]uint64, len(keep))
	for _, id := range keep {
		img, ok := present(view.Images.Get(id))
		if !ok {
			continue
		}
		now[id] = img.GetMeta().GetVersion()
		if was, ok := o.images[id]; !ok || was != now[id] {
			d.deps = append(d.deps, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Image{Image: img}}))
		}
	}
	for id := range o.images {
		if _, ok := now[id]; !ok {
			d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_IMAGE, id: id}))
		}
	}
	o.images = now
}
