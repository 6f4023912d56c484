package assignment

import (
	"fmt"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// SentSet remembers which objects were sent to one node in one session, and computes the next
// message. One goroutine uses it.
type SentSet struct {
	node  string
	state *State

	tasks    map[string]sentTask
	needs    map[Ref]int       // how many tasks name a dependency; one more for the network ingress, which every node needs
	versions map[Ref]uint64    // versions of the dependencies that were sent
	images   map[string]uint64 // versions of the images to keep, by ID
	keys     map[string]bool   // gossip keys by keyID; the value says whether the key is on standby
	view     nodeView
}

// sentTask is a task that the node has, and the objects that it names.
type sentTask struct {
	version uint64
	deps    []Ref
}

// NewSentSet returns the set of a node to which nothing was sent yet.
func NewSentSet(nodeID string, state *State) *SentSet {
	return &SentSet{
		node: nodeID, state: state,
		tasks: make(map[string]sentTask), needs: make(map[Ref]int), versions: make(map[Ref]uint64),
		images: make(map[string]uint64), keys: make(map[string]bool), view: newNodeView(),
	}
}

// message gathers the changes of one message in the order in which the worker needs them.
type message struct {
	objects      []*swarmv1.AssignmentChange
	tasks        []*swarmv1.AssignmentChange
	taskRemovals []*swarmv1.AssignmentChange
	removals     []*swarmv1.AssignmentChange // of objects

	released []Ref // dependencies that a task has stopped naming
}

func put(a *swarmv1.Assignment) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: a}}
}

func remove(r Ref) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: r.Kind, Id: r.ID}}}
}

// Complete forgets what was sent and returns everything that the node needs, as the first message
// of a session or after State.Load.
func (s *SentSet) Complete(view *table.View) []*swarmv1.AssignmentChange {
	*s = *NewSentSet(s.node, s.state)
	m := &message{}
	s.syncKeys(m, view)
	s.syncImages(m, view)
	s.syncIngress(m, view)
	s.syncTopology(m)
	for t := range view.TasksOnNode(s.node) {
		s.syncTask(m, view, t.GetId())
	}
	return s.finish(m)
}

// Update compares the objects that the references name with what was sent, and returns the changes.
// It returns none when the node has the newest version of all of them, or needs none of them. The
// view must not be older than the view of the previous call.
func (s *SentSet) Update(view *table.View, refs []Ref) []*swarmv1.AssignmentChange {
	m := &message{}
	for _, r := range refs {
		if s.syncRef(m, r) {
			continue
		}
		switch r.Kind {
		case swarmv1.AssignmentRef_TASK:
			s.syncTask(m, view, r.ID)
		case swarmv1.AssignmentRef_KEY:
			s.syncKeys(m, view)
		case kindImages:
			s.syncImages(m, view)
		case kindIngress:
			s.syncIngress(m, view)
		case KindNode, KindState: // other messages of the session
		default:
			if s.needs[r] > 0 {
				s.syncDependency(m, view, r)
			}
		}
	}
	return s.finish(m)
}

// finish removes the dependencies that no task names any more. It runs after all tasks, because one
// task may begin to name what another one has released.
func (s *SentSet) finish(m *message) []*swarmv1.AssignmentChange {
	for _, r := range m.released {
		if s.needs[r] > 0 {
			continue
		}
		delete(s.needs, r)
		if _, was := s.versions[r]; was {
			delete(s.versions, r)
			m.removals = append(m.removals, remove(r))
		}
	}
	return slices.Concat(m.objects, m.tasks, m.taskRemovals, m.removals)
}

// syncTask sends a task of this node that is new or has changed, after the objects that it names,
// and removes a task that is gone or belongs to another node.
func (s *SentSet) syncTask(m *message, view *table.View, id string) {
	before, had := s.tasks[id]
	t, ok := view.Tasks.Get(id)
	// A task of a global service names its node before it is assigned, because its slot is the
	// node. It may still wait for resources there.
	if st := view.Status(id); st != nil && st.GetState() < swarmv1.TaskState_ASSIGNED {
		ok = false
	}
	if !ok || t.GetNodeId() != s.node {
		if had {
			delete(s.tasks, id)
			m.taskRemovals = append(m.taskRemovals, remove(Ref{Kind: swarmv1.AssignmentRef_TASK, ID: id}))
			s.release(m, before.deps)
		}
		return
	}
	if had && before.version == t.GetMeta().GetVersion() {
		return
	}
	deps := depsOf(view, t)
	for _, r := range deps {
		s.need(m, view, r)
	}
	s.release(m, before.deps)
	s.tasks[id] = sentTask{version: t.GetMeta().GetVersion(), deps: deps}
	m.tasks = append(m.tasks, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: withShutdown(view, t)}}))
}

// withShutdown returns a task that has ended with the desired state SHUTDOWN, also when the planner
// has not written that yet. With RUNNING, a worker that has lost its disk would start the task
// again.
func withShutdown(view *table.View, t *swarmv1.Task) *swarmv1.Task {
	if view.Status(t.GetId()).GetState() > swarmv1.TaskState_RUNNING && t.GetDesiredState() < swarmv1.TaskState_COMPLETE {
		t = t.CloneVT()
		t.DesiredState = swarmv1.TaskState_SHUTDOWN
	}
	return t
}

// need counts one more task that names a dependency, and sends the dependency with the first task.
func (s *SentSet) need(m *message, view *table.View, r Ref) {
	s.needs[r]++
	if s.needs[r] == 1 {
		s.syncDependency(m, view, r)
	}
}

// release counts one task fewer for each of the dependencies. finish removes the dependencies that
// no task names any more.
func (s *SentSet) release(m *message, deps []Ref) {
	for _, r := range deps {
		s.needs[r]--
	}
	m.released = append(m.released, deps...)
}

// syncDependency sends a dependency unless the node has this version of it, and removes it when its
// row is gone.
func (s *SentSet) syncDependency(m *message, view *table.View, r Ref) {
	a, version := lookup(view, r)
	had, was := s.versions[r]
	switch {
	case a == nil && was:
		delete(s.versions, r)
		m.removals = append(m.removals, remove(r))
	case a != nil && (!was || had != version):
		s.versions[r] = version
		m.objects = append(m.objects, put(a))
	}
}

// lookup returns the assignment that a reference names and the version of its row; nil when there
// is no such row.
func lookup(view *table.View, r Ref) (*swarmv1.Assignment, uint64) {
	switch r.Kind {
	case swarmv1.AssignmentRef_REVISION:
		if row, ok := view.Revisions.Get(r.ID); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Revision{Revision: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_DATA_VERSION:
		if row, ok := view.DataVersions.Get(r.ID); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_DataVersion{DataVersion: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_VOLUME:
		if row, ok := view.Volumes.Get(table.VolumeKey("", r.ID)); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Volume{Volume: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_NETWORK:
		if row, ok := view.Networks.Get(r.ID); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: row}}, row.GetMeta().GetVersion()
		}
	case swarmv1.AssignmentRef_ENDPOINT:
		if row, ok := view.Endpoints.Get(r.ID); ok {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Endpoint{Endpoint: row}}, row.GetMeta().GetVersion()
		}
	}
	return nil, 0
}

// depsOf returns references to the objects that a worker needs to run a task, without duplicates.
// Rows that do not exist are among them, because they may be created later.
func depsOf(view *table.View, t *swarmv1.Task) []Ref {
	key := table.Key(&swarmv1.Revision{ServiceId: t.GetServiceId(), Number: t.GetRevision()})
	deps := []Ref{{Kind: swarmv1.AssignmentRef_REVISION, ID: key}, {Kind: swarmv1.AssignmentRef_ENDPOINT, ID: t.GetServiceId()}}
	rev, _ := view.Revisions.Get(key)
	template := rev.GetSpec().GetTaskTemplate()
	for ref := range spec.DataReferences(rev.GetSpec()) {
		for _, number := range []uint64{ref.GetNumber(), ref.GetPrevious()} {
			if number != 0 {
				version := table.DataVersionKey(ref.GetId(), number)
				deps = append(deps, Ref{Kind: swarmv1.AssignmentRef_DATA_VERSION, ID: version})
			}
		}
	}
	for _, name := range object.MountedVolumes(view, t) {
		deps = append(deps, Ref{Kind: swarmv1.AssignmentRef_VOLUME, ID: name})
	}
	for _, n := range t.GetNetworks() {
		deps = append(deps, Ref{Kind: swarmv1.AssignmentRef_NETWORK, ID: n.GetNetworkId()})
	}
	for _, n := range template.GetNetworks() {
		deps = append(deps, Ref{Kind: swarmv1.AssignmentRef_NETWORK, ID: n.GetTarget()})
	}
	seen := make(map[Ref]bool, len(deps))
	return slices.DeleteFunc(deps, func(r Ref) bool {
		isDuplicate := seen[r]
		seen[r] = true
		return isDuplicate
	})
}

// syncKeys brings the gossip keys up to date.
func (s *SentSet) syncKeys(m *message, view *table.View) {
	now := make(map[string]bool)
	for _, k := range view.Cluster().GetGossipKeys() {
		id := keyID(k)
		now[id] = k.GetStandby()
		if standby, ok := s.keys[id]; !ok || standby != now[id] {
			m.objects = append(m.objects, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Key{Key: k}}))
		}
	}
	for id := range s.keys {
		if _, ok := now[id]; !ok {
			m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_KEY, ID: id}))
		}
	}
	s.keys = now
}

// keyID returns the ID by which an AssignmentRef names a gossip key.
func keyID(k *swarmv1.EncryptionKey) string {
	return fmt.Sprintf("%s/%d", k.GetSubsystem(), k.GetLamportTime())
}

// syncImages brings the images that the node must keep a copy of up to date.
func (s *SentSet) syncImages(m *message, view *table.View) {
	keep := s.state.images.Load().of(s.node)
	now := make(map[string]uint64, len(keep))
	for _, id := range keep {
		img, ok := view.Images.Get(id)
		if !ok {
			continue
		}
		now[id] = img.GetMeta().GetVersion()
		if was, ok := s.images[id]; !ok || was != now[id] {
			m.objects = append(m.objects, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Image{Image: img}}))
		}
	}
	for id := range s.images {
		if _, ok := now[id]; !ok {
			m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_IMAGE, ID: id}))
		}
	}
	s.images = now
}
