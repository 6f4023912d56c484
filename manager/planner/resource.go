package planner

import (
	"fmt"
	"slices"
	"strconv"

	swarmv1 "swarm/proto/swarm/v1"
)

// amounts of what can be reserved. generic is nil on almost every node.
type amounts struct {
	cpu, memory int64
	generic     map[string]*stock
}

// stock of one kind of generic resource: an amount, or named pieces.
type stock struct {
	amount int64
	named  []string // sorted
}

func (s *stock) size() int64 {
	if s == nil {
		return 0
	}
	return s.amount + int64(len(s.named))
}

func capacityOf(r *swarmv1.Resources) amounts {
	a := amounts{cpu: r.GetNanoCpus(), memory: r.GetMemoryBytes()}
	a.addGeneric(r.GetGeneric())
	return a
}

func (a *amounts) addGeneric(list []*swarmv1.GenericResource) {
	for _, g := range list {
		if a.generic == nil {
			a.generic = map[string]*stock{}
		}
		s := a.generic[g.GetKind()]
		if s == nil {
			s = &stock{}
			a.generic[g.GetKind()] = s
		}
		if g.GetNamed() == "" {
			s.amount += g.GetValue()
		} else if i, found := slices.BinarySearch(s.named, g.GetNamed()); !found {
			s.named = slices.Insert(s.named, i, g.GetNamed())
		}
	}
}

func (a *amounts) dropGeneric(list []*swarmv1.GenericResource) {
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

// free is how much of a kind of generic resource the node has left.
func (n *node) free(kind string) int64 {
	return n.capacity.generic[kind].size() - n.used.generic[kind].size()
}

// allot picks the generic resources that a task gets; the caller has checked that they are free. Named pieces go first,
// in their order.
func (n *node) allot(want []*swarmv1.GenericResource) []*swarmv1.GenericResource {
	if len(want) == 0 {
		return nil
	}
	var out []*swarmv1.GenericResource
	for _, w := range want {
		left := w.GetValue()
		if has := n.capacity.generic[w.GetKind()]; has != nil {
			for _, name := range has.named {
				if left == 0 {
					break
				}
				if used := n.used.generic[w.GetKind()]; used != nil && slices.Contains(used.named, name) {
					continue
				}
				out = append(out, &swarmv1.GenericResource{Kind: w.GetKind(), Named: name})
				left--
			}
		}
		if left > 0 {
			out = append(out, &swarmv1.GenericResource{Kind: w.GetKind(), Value: left})
		}
	}
	return out
}

func cpuText(nano int64) string {
	s := strconv.FormatFloat(float64(nano)/1e9, 'f', -1, 64)
	if nano == 1e9 {
		return s + " CPU"
	}
	return s + " CPUs"
}

func memoryText(b int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(max(b, 0)), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.4g %s", v, units[i])
}
