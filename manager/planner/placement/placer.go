package placement

import (
	"cmp"
	"slices"

	"swarm/manager/planner/cluster"
)

// placer finds nodes for the tasks of one revision, one task after the other. newPlacer collects
// the nodes that match the revision once. Every leaf of the spread tree holds its nodes in a heap.
// A node without room leaves its heap, because no node gains room during a plan.
type placer struct {
	revision    *cluster.Revision
	root        *branch
	explanation *Explanation // why no node takes a task; nil: not computed yet
	path        []*branch
}

// branch is an inner node or a leaf of the spread tree: all nodes of its parent that have one value
// of a label. Without spread preferences the root is the only branch, and a leaf.
type branch struct {
	value string
	// tasks counts the tasks of the service in the branch.
	tasks    int
	children []*branch // sorted by value; nil in a leaf
	nodes    candidates
}

// newPlacer returns a placer with all nodes that take new tasks and match the revision. Room is not
// checked yet.
func (f *Finder) newPlacer(rev *cluster.Revision) *placer {
	p := &placer{revision: rev, root: &branch{}}
	failing := f.recentFailures(rev)
	noImage := f.nodesWithoutImage(rev)
	found := map[*cluster.Node]int{} // tasks of the service that this plan has placed already
	for _, n := range f.found {
		found[n]++
	}
	hasTasks := f.service.HasTasks() || len(found) > 0
	if len(rev.Spread) == 0 {
		p.root.nodes, f.spare = slices.Grow(f.spare, len(f.state.Nodes())), nil
	}
	for c := range f.state.Classes() {
		if checkClass(rev, c) != fits {
			continue
		}
		leaf := p.root
		for _, k := range rev.Spread {
			leaf = leaf.child(c.Attribute(k))
		}
		for _, n := range c.Nodes {
			if n.Availability != cluster.Available || !matchesNode(rev, n) || noImage[n] != nil {
				continue
			}
			count := 0
			if hasTasks {
				count = f.service.TasksOn(n) + found[n]
			}
			leaf.nodes = append(leaf.nodes, candidate{sortKey(n, count, failing != nil && failing[n] >= failureThreshold), n})
			p.root.addTasks(rev, c, count)
		}
	}
	p.root.build()
	return p
}

// child returns the branch for a value, and adds one if there is none.
func (b *branch) child(value string) *branch {
	i, found := slices.BinarySearchFunc(b.children, value, func(k *branch, v string) int { return cmp.Compare(k.value, v) })
	if !found {
		b.children = slices.Insert(b.children, i, &branch{value: value})
	}
	return b.children[i]
}

// addTasks adds n to the task counts of all branches on the path to the leaf of class c.
func (b *branch) addTasks(rev *cluster.Revision, c *cluster.Class, n int) {
	b.tasks += n
	for _, k := range rev.Spread {
		b = b.child(c.Attribute(k))
		b.tasks += n
	}
}

// build orders the heaps and drops empty branches.
func (b *branch) build() {
	b.nodes.order()
	for _, k := range b.children {
		k.build()
	}
	b.children = slices.DeleteFunc(b.children, (*branch).empty)
}

func (b *branch) empty() bool { return len(b.children) == 0 && len(b.nodes) == 0 }

// pick returns the node for the next task, or nil if no node has room. At every level of the tree
// it takes the branch with the fewest tasks of the service, and in the leaf the first node of the
// heap.
func (p *placer) pick() *cluster.Node {
	for !p.root.empty() {
		p.path = append(p.path[:0], p.root)
		leaf := p.root
		for len(leaf.children) > 0 {
			leaf = slices.MinFunc(leaf.children, func(a, b *branch) int { return cmp.Compare(a.tasks, b.tasks) })
			p.path = append(p.path, leaf)
		}
		if n := leaf.nodes.pick(p.revision); n != nil {
			for _, b := range p.path {
				b.tasks++
			}
			return n
		}
		p.prune()
	}
	return nil
}

// prune removes the branches of the path that have become empty.
func (p *placer) prune() {
	for i := len(p.path) - 1; i > 0; i-- {
		p.path[i-1].children = slices.DeleteFunc(p.path[i-1].children, (*branch).empty)
	}
}

// The sort key of a candidate is one number; the lowest is placed first. From the highest bit down
// it holds: whether tasks of the revision keep failing on the node, the number of the service's
// tasks there, the number of all tasks there, and the index of the node.
const (
	indexBits        = 20 // 1M nodes
	taskCountBits    = 21 // 2M tasks a node
	serviceCountBits = 22
	penalty          = 1 << (indexBits + taskCountBits + serviceCountBits)
	oneMoreTask      = 1<<(indexBits+taskCountBits) | 1<<indexBits
)

// sortKey returns the node's sort key. count is the number of the service's tasks on the node.
func sortKey(n *cluster.Node, count int, failing bool) uint64 {
	k := uint64(count)<<(indexBits+taskCountBits) | uint64(n.TaskCount)<<indexBits | uint64(n.Index)
	if failing {
		k |= penalty
	}
	return k
}

func serviceCountOf(key uint64) uint64 {
	return key >> (indexBits + taskCountBits) & (1<<serviceCountBits - 1)
}

type candidate struct {
	key  uint64
	node *cluster.Node
}

// candidates is a heap with the lowest key on top. All keys differ, so the order of insertion has
// no effect.
type candidates []candidate

// maxSpare is the capacity of the largest slice that is kept for the next plan. A plan that needs a
// larger slice takes longer than the allocation of that slice.
const maxSpare = 4096

// recycle returns the memory of c, empty. It clears the elements, because they would keep removed
// nodes in memory.
func (c candidates) recycle() candidates {
	if cap(c) > maxSpare {
		return nil
	}
	clear(c[:cap(c)])
	return c[:0]
}

// children is how many children a candidate of the heap has at most. Those of the candidate at
// index i begin at index children*i + 1.
const children = 4

// order establishes the order of a heap.
func (c candidates) order() {
	for i := len(c) / children; i >= 0; i-- {
		c.siftDown(i)
	}
}

// siftDown moves the candidate at index i down to where no child has a lower key.
func (c candidates) siftDown(i int) {
	for {
		lowest, first := i, children*i+1
		for k := first; k < min(first+children, len(c)); k++ {
			if c[k].key < c[lowest].key {
				lowest = k
			}
		}
		if lowest == i {
			return
		}
		c[i], c[lowest] = c[lowest], c[i]
		i = lowest
	}
}

// pick returns the first candidate that has room, and adds one task to its key. It removes the
// candidates without room that it meets. It returns nil if no candidate is left.
func (c *candidates) pick(rev *cluster.Revision) *cluster.Node {
	for len(*c) > 0 {
		top := &(*c)[0]
		if checkRoom(rev, top.node, serviceCountOf(top.key)) == fits {
			n := top.node
			top.key += oneMoreTask
			c.siftDown(0)
			return n
		}
		last := len(*c) - 1
		(*c)[0] = (*c)[last]
		*c = (*c)[:last]
		c.siftDown(0)
	}
	return nil
}
