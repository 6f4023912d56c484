package cluster

import (
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// Resources are amounts that tasks can reserve: CPU in billionths of a CPU, memory in bytes, and
// generic resources by kind. generic is nil on almost every node.
type Resources struct {
	CPU, Memory int64
	generic     map[string]*genericStock
}

// genericStock is an amount of one kind of generic resource, or the names of its units.
type genericStock struct {
	amount int64
	named  []string // sorted
}

func (s *genericStock) size() int64 {
	if s == nil {
		return 0
	}
	return s.amount + int64(len(s.named))
}

func resourcesOf(r *swarmv1.Resources) Resources {
	a := Resources{CPU: r.GetNanoCpus(), Memory: r.GetMemoryBytes()}
	a.addGeneric(r.GetGeneric())
	return a
}

func (a *Resources) addGeneric(list []*swarmv1.GenericResource) {
	for _, g := range list {
		if a.generic == nil {
			a.generic = map[string]*genericStock{}
		}
		s := a.generic[g.GetKind()]
		if s == nil {
			s = &genericStock{}
			a.generic[g.GetKind()] = s
		}
		if g.GetNamed() == "" {
			s.amount += g.GetValue()
		} else if i, found := slices.BinarySearch(s.named, g.GetNamed()); !found {
			s.named = slices.Insert(s.named, i, g.GetNamed())
		}
	}
}

func (a *Resources) dropGeneric(list []*swarmv1.GenericResource) {
	for _, g := range list {
		s := a.generic[g.GetKind()]
		if s == nil {
			continue
		}
		if g.GetNamed() == "" {
			s.amount -= g.GetValue()
		} else if i, found := slices.BinarySearch(s.named, g.GetNamed()); found {
			s.named = slices.Delete(s.named, i, i+1)
		}
		if s.size() == 0 {
			delete(a.generic, g.GetKind())
		}
	}
}

// FreeCPU returns how many billionths of a CPU of the node are not reserved. It is negative if the
// node has become smaller than what its tasks have reserved.
func (n *Node) FreeCPU() int64 { return n.capacity.CPU - n.reserved.CPU }

// FreeMemory returns how many bytes of memory of the node are not reserved. It may be negative,
// like FreeCPU.
func (n *Node) FreeMemory() int64 { return n.capacity.Memory - n.reserved.Memory }

// FreeGeneric returns how much of a kind of generic resource the node has left.
func (n *Node) FreeGeneric(kind string) int64 {
	return n.capacity.generic[kind].size() - n.reserved.generic[kind].size()
}

// allocateGeneric chooses the generic resources that a task gets. The caller has checked that
// enough are free. It takes named units first, in the order of their names.
func (n *Node) allocateGeneric(want []*swarmv1.GenericResource) []*swarmv1.GenericResource {
	if len(want) == 0 {
		return nil
	}
	var out []*swarmv1.GenericResource
	for _, w := range want {
		remaining := w.GetValue()
		if has := n.capacity.generic[w.GetKind()]; has != nil {
			for _, name := range has.named {
				if remaining == 0 {
					break
				}
				if used := n.reserved.generic[w.GetKind()]; used != nil && slices.Contains(used.named, name) {
					continue
				}
				out = append(out, &swarmv1.GenericResource{Kind: w.GetKind(), Named: name})
				remaining--
			}
		}
		if remaining > 0 {
			out = append(out, &swarmv1.GenericResource{Kind: w.GetKind(), Value: remaining})
		}
	}
	return out
}
