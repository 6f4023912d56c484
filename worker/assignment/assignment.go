package assignment

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
)

// Key names an assigned object.
type Key struct {
	Kind swarmv1.AssignmentRef_Kind
	// ID is the object's key in the managers' table of that kind. For a revision and for a version
	// of a secret or config it is a NumberedID, for an encryption key its subsystem and time.
	ID string
}

// String returns the key as state.db has it.
func (k Key) String() string { return fmt.Sprintf("%d/%s", k.Kind, k.ID) }

// NumberedID returns the ID in a Key of a revision of a service, or of a version of a secret or
// config.
func NumberedID(owner string, number uint64) string {
	return fmt.Sprintf("%s/%010d", owner, number)
}

// keyOf returns the key of an object. Its kind is UNKNOWN if this version of swarm does not know
// the kind of the object, because the managers have a newer version.
func keyOf(a *swarmv1.Assignment) Key {
	switch o := a.Object.(type) {
	case *swarmv1.Assignment_Task:
		return Key{swarmv1.AssignmentRef_TASK, o.Task.GetId()}
	case *swarmv1.Assignment_Revision:
		return Key{swarmv1.AssignmentRef_REVISION, NumberedID(o.Revision.GetServiceId(), o.Revision.GetNumber())}
	case *swarmv1.Assignment_DataVersion:
		return Key{swarmv1.AssignmentRef_DATA_VERSION, NumberedID(o.DataVersion.GetObjectId(), o.DataVersion.GetNumber())}
	case *swarmv1.Assignment_Endpoint:
		return Key{swarmv1.AssignmentRef_ENDPOINT, o.Endpoint.GetServiceId()}
	case *swarmv1.Assignment_Key:
		return Key{swarmv1.AssignmentRef_KEY, fmt.Sprintf("%s/%d", o.Key.GetSubsystem(), o.Key.GetLamportTime())}
	case *swarmv1.Assignment_Network:
		return Key{swarmv1.AssignmentRef_NETWORK, o.Network.GetId()}
	case *swarmv1.Assignment_Image:
		return Key{swarmv1.AssignmentRef_IMAGE, o.Image.GetId()}
	case *swarmv1.Assignment_Peering:
		return Key{swarmv1.AssignmentRef_PEERING, o.Peering.GetNodeId()}
	case *swarmv1.Assignment_Routing:
		return Key{swarmv1.AssignmentRef_ROUTING, o.Routing.GetServiceId()}
	case *swarmv1.Assignment_Backend:
		return Key{swarmv1.AssignmentRef_BACKEND, o.Backend.GetTaskId()}
	case *swarmv1.Assignment_Volume:
		return Key{swarmv1.AssignmentRef_VOLUME, o.Volume.GetName()}
	default:
		return Key{}
	}
}

// ContainerSpec returns the container's part of a revision; nil if there is none.
func ContainerSpec(r *swarmv1.Revision) *swarmv1.ContainerSpec {
	return r.GetSpec().GetTaskTemplate().GetContainerSpec()
}

// ForDisk returns what state.db must have of the object after the change: the object without the
// credentials for its registry, or nil if the object is gone. stored is false for secrets,
// configs and encryption keys, which state.db never has. Managers send them and the credentials
// again with the first message of a session.
func (c Change) ForDisk() (object *swarmv1.Assignment, stored bool) {
	switch {
	case c.Key.Kind == swarmv1.AssignmentRef_DATA_VERSION, c.Key.Kind == swarmv1.AssignmentRef_KEY:
		return nil, false
	case ContainerSpec(c.Now.GetRevision()).GetPullOptions().GetRegistryAuth() == "":
		return c.Now, true
	}
	a := c.Now.CloneVT()
	ContainerSpec(a.GetRevision()).PullOptions.RegistryAuth = ""
	return a, true
}

// IsTopology reports whether the object describes the cluster's networks: a network, a peering, a
// routing or a backend.
func (k Key) IsTopology() bool {
	switch k.Kind {
	case swarmv1.AssignmentRef_NETWORK, swarmv1.AssignmentRef_PEERING, swarmv1.AssignmentRef_ROUTING, swarmv1.AssignmentRef_BACKEND:
		return true
	default:
		return false
	}
}

// Set has all objects that are assigned to the node. Its methods may be called concurrently. The
// objects that it returns are read-only.
type Set struct {
	mu      sync.RWMutex // guards what follows
	all     map[Key]*swarmv1.Assignment
	changed broadcast.Signal // sent at every change
}

// New returns an empty Set.
func New() *Set {
	return &Set{all: map[Key]*swarmv1.Assignment{}}
}

// Change is one difference that a message made to a Set.
type Change struct {
	Key Key
	// Now is the object after the change; nil: it is not assigned any more.
	Now *swarmv1.Assignment
}

// Wire returns the change in the form in which managers send it.
func (c Change) Wire() *swarmv1.AssignmentChange {
	if c.Now != nil {
		return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: c.Now}}
	}
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{
		Remove: &swarmv1.AssignmentRef{Kind: c.Key.Kind, Id: c.Key.ID},
	}}
}

// Restore puts the objects that an earlier process left in state.db into the set. It returns a
// Change for each object.
func (o *Set) Restore(objects []*swarmv1.Assignment) []Change {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Change, 0, len(objects))
	for _, a := range objects {
		o.all[keyOf(a)] = a
		out = append(out, Change{keyOf(a), a})
	}
	return out
}

// Apply applies a message of the managers and returns the changes, in the order of the message. An
// object that is equal to the object in the set is not a change. A complete message replaces the
// set: Apply removes the objects that the message does not name, and returns these changes last,
// ordered by key.
func (o *Set) Apply(msg *swarmv1.Assignments) []Change {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []Change
	named := map[Key]bool{}
	for _, c := range msg.Changes {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Put:
			key := keyOf(c.Put)
			if key.Kind == swarmv1.AssignmentRef_UNKNOWN {
				continue // The managers have a newer version.
			}
			named[key] = true
			if was := o.all[key]; was == nil || !proto.Equal(was, c.Put) {
				o.all[key] = c.Put
				out = append(out, Change{key, c.Put})
			}
		case *swarmv1.AssignmentChange_Remove:
			key := Key{c.Remove.Kind, c.Remove.Id}
			if _, ok := o.all[key]; ok {
				delete(o.all, key)
				out = append(out, Change{key, nil})
			}
		}
	}
	if msg.Complete {
		for _, key := range slices.SortedFunc(maps.Keys(o.all), compareKeys) {
			if !named[key] {
				delete(o.all, key)
				out = append(out, Change{key, nil})
			}
		}
	}
	if len(out) > 0 {
		o.changed.Broadcast()
	}
	return out
}

func compareKeys(a, b Key) int {
	if a.Kind != b.Kind {
		return int(a.Kind) - int(b.Kind)
	}
	return strings.Compare(a.ID, b.ID)
}

// Changed returns a channel that the next change closes. Call it before Get or List, so that no
// change between the two calls is missed.
func (o *Set) Changed() <-chan struct{} {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.changed.Changed()
}

// Get returns the object of a kind and an ID; nil: it is not assigned.
func (o *Set) Get(kind swarmv1.AssignmentRef_Kind, id string) *swarmv1.Assignment {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.all[Key{kind, id}]
}

// Revision returns the revision of a task; nil: the revision is not assigned.
func (o *Set) Revision(t *swarmv1.Task) *swarmv1.Revision {
	return o.Get(swarmv1.AssignmentRef_REVISION, NumberedID(t.GetServiceId(), t.GetRevision())).GetRevision()
}

// List returns all objects of a kind, ordered by ID.
func (o *Set) List(kind swarmv1.AssignmentRef_Kind) []*swarmv1.Assignment {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var keys []Key
	for k := range o.all {
		if k.Kind == kind {
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
