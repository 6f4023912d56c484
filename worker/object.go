package worker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// objectKey names an assigned object: the kind and the id of an AssignmentRef.
type objectKey struct {
	kind swarmv1.AssignmentRef_Kind
	id   string
}

func (k objectKey) String() string { return fmt.Sprintf("%d/%s", k.kind, k.id) }

func revisionID(serviceID string, number uint64) string {
	return fmt.Sprintf("%s/%010d", serviceID, number)
}

// keyOf names what is assigned. Ids are the keys of the managers' tables; an encryption key's is its subsystem and time.
func keyOf(a *swarmv1.Assignment) objectKey {
	switch o := a.Object.(type) {
	case *swarmv1.Assignment_Task:
		return objectKey{swarmv1.AssignmentRef_TASK, o.Task.GetId()}
	case *swarmv1.Assignment_Revision:
		return objectKey{swarmv1.AssignmentRef_REVISION, revisionID(o.Revision.GetServiceId(), o.Revision.GetNumber())}
	case *swarmv1.Assignment_Secret:
		return objectKey{swarmv1.AssignmentRef_SECRET, o.Secret.GetId()}
	case *swarmv1.Assignment_Config:
		return objectKey{swarmv1.AssignmentRef_CONFIG, o.Config.GetId()}
	case *swarmv1.Assignment_Endpoint:
		return objectKey{swarmv1.AssignmentRef_ENDPOINT, o.Endpoint.GetServiceId()}
	case *swarmv1.Assignment_Key:
		return objectKey{swarmv1.AssignmentRef_KEY, fmt.Sprintf("%s/%d", o.Key.GetSubsystem(), o.Key.GetLamportTime())}
	case *swarmv1.Assignment_Network:
		return objectKey{swarmv1.AssignmentRef_NETWORK, o.Network.GetId()}
	case *swarmv1.Assignment_Image:
		return objectKey{swarmv1.AssignmentRef_IMAGE, o.Image.GetId()}
	case *swarmv1.Assignment_Peering:
		return objectKey{swarmv1.AssignmentRef_PEERING, o.Peering.GetNodeId()}
	case *swarmv1.Assignment_Routing:
		return objectKey{swarmv1.AssignmentRef_ROUTING, o.Routing.GetServiceId()}
	case *swarmv1.Assignment_Backend:
		return objectKey{swarmv1.AssignmentRef_BACKEND, o.Backend.GetTaskId()}
	default:
		return objectKey{}
	}
}

// onDisk says whether an object may be written to state.db. Secrets and keys never touch a disk of a worker; the
// managers send them again with the first message of a session.
func (k objectKey) onDisk() bool {
	return k.kind != swarmv1.AssignmentRef_SECRET && k.kind != swarmv1.AssignmentRef_KEY
}

// forDisk is what of an object may be written to state.db: all but the credentials for a registry, which a worker has in
// memory alone. As with secrets, the managers send them again with the first message of a session.
func forDisk(a *swarmv1.Assignment) *swarmv1.Assignment {
	if containerSpec(a.GetRevision()).GetPullOptions().GetRegistryAuth() == "" {
		return a
	}
	a = a.CloneVT()
	containerSpec(a.GetRevision()).PullOptions.RegistryAuth = ""
	return a
}

// topology says whether an object tells of the cluster's networks.
func (k objectKey) topology() bool {
	switch k.kind {
	case swarmv1.AssignmentRef_NETWORK, swarmv1.AssignmentRef_PEERING, swarmv1.AssignmentRef_ROUTING, swarmv1.AssignmentRef_BACKEND:
		return true
	default:
		return false
	}
}

// objects are all assigned objects. Values are read-only.
type objects struct {
	mu      sync.RWMutex // guards what follows
	all     map[objectKey]*swarmv1.Assignment
	changed chan struct{} // closed and replaced with every change
}

func newObjects() *objects {
	return &objects{all: map[objectKey]*swarmv1.Assignment{}, changed: make(chan struct{})}
}

// objectChange is one effective difference; now is nil for what is gone.
type objectChange struct {
	key objectKey
	now *swarmv1.Assignment
}

// wire words a change as the managers do.
func (c objectChange) wire() *swarmv1.AssignmentChange {
	if c.now != nil {
		return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: c.now}}
	}
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{
		Remove: &swarmv1.AssignmentRef{Kind: c.key.kind, Id: c.key.id},
	}}
}

// apply takes a message and returns what it changed, in the message's order; what a complete set leaves out comes last.
func (o *objects) apply(msg *swarmv1.Assignments) []objectChange {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []objectChange
	named := map[objectKey]bool{}
	for _, c := range msg.Changes {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Put:
			key := keyOf(c.Put)
			if key.kind == swarmv1.AssignmentRef_UNKNOWN {
				continue // of a newer version of the managers
			}
			named[key] = true
			if was := o.all[key]; was == nil || !proto.Equal(was, c.Put) {
				o.all[key] = c.Put
				out = append(out, objectChange{key, c.Put})
			}
		case *swarmv1.AssignmentChange_Remove:
			key := objectKey{c.Remove.Kind, c.Remove.Id}
			if _, ok := o.all[key]; ok {
				delete(o.all, key)
				out = append(out, objectChange{key, nil})
			}
		}
	}
	if msg.Complete {
		for _, key := range slices.SortedFunc(maps.Keys(o.all), compareKeys) {
			if !named[key] {
				delete(o.all, key)
				out = append(out, objectChange{key, nil})
			}
		}
	}
	if len(out) > 0 {
		close(o.changed)
		o.changed = make(chan struct{})
	}
	return out
}

func compareKeys(a, b objectKey) int {
	if a.kind != b.kind {
		return int(a.kind) - int(b.kind)
	}
	return strings.Compare(a.id, b.id)
}

// watch returns a channel that is closed by the next change; take it before looking.
func (o *objects) watch() <-chan struct{} {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.changed
}

func (o *objects) get(kind swarmv1.AssignmentRef_Kind, id string) *swarmv1.Assignment {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.all[objectKey{kind, id}]
}

// list returns all objects of a kind, ordered by id.
func (o *objects) list(kind swarmv1.AssignmentRef_Kind) []*swarmv1.Assignment {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var keys []objectKey
	for k := range o.all {
		if k.kind == kind {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compareKeys)
	out := make([]*swarmv1.Assignment, len(keys))
	for i, k := range keys {
		out[i] = o.all[k]
	}
	return out
}
