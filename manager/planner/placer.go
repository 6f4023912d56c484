package planner

import (
	"cmp"
	"slices"
	"time"
)

// placer finds nodes for the tasks of one revision, one after the other. The nodes that suit it are found once; each
// leaf of the spread tree holds them in a heap. A node without room leaves its heap: within a plan it gets none.
type placer struct {
	rev     *revision
	root    *branch
	verdict *verdict // why there is no node; nil: not asked yet
	path    []*branch
}

// branch is a node of the spread tree: all nodes of the cluster with one value of a label. Without spread preferences
// the root is the only one, and a leaf.
type branch struct {
	value string
	// tasks of the service in it.
	tasks int
	kids  []*branch // by value; nil in a leaf
	heap  heap
}

func (r *run) newPlacer(rev *revision) *placer {
	p := &placer{rev: rev, root: &branch{}}
	failing := r.failing(rev)
	placed := r.placedHere()
	lacking := r.lacking(rev)
	busy := len(r.svc.nodes) > 0 || len(placed) > 0
	if len(rev.spread) == 0 {
		p.root.heap, r.p.spare.heap = slices.Grow(r.p.spare.heap, len(r.p.order)), nil
	}
	for _, c := range r.p.classes {
		if rev.suitsClass(c) != fits {
			continue
		}
		leaf := p.root
		for _, k := range rev.spread {
			leaf = leaf.kid(c.attribute(k))
		}
		for _, n := range c.nodes {
			if n.open != fits || !rev.suitsNode(n) || lacking[n] != nil {
				continue
			}
			count := 0
			if busy {
				count = int(r.svc.nodes[n]) + placed[n]
			}
			leaf.heap = append(leaf.heap, candidate{n.key(count, failing != nil && failing[n] >= failingOften), n})
			p.root.addTasks(rev, c, count)
		}
	}
	p.root.settle()
	return p
}

// placedHere counts what earlier placers of this plan have placed for the service.
func (r *run) placedHere() map[*node]int {
	if r.from == len(r.taken) {
		return nil
	}
	placed := map[*node]int{}
	for _, t := range r.taken[r.from:] {
		placed[t.node]++
	}
	return placed
}

// A node on which tasks of a revision have failed this often of late is taken only when no other has room. Docker waits for
// 5 failures, but its restart delay does not grow.
const (
	failingOften  = 3
	failingWithin = 5 * time.Minute
)

func (r *run) failing(rev *revision) map[*node]int {
	if r.svc.failed == 0 {
		return nil
	}
	failing := map[*node]int{}
	for _, s := range r.svc.list {
		for _, t := range s.tasks {
			if t.failed && t.node != nil && t.rev == rev && r.now.Sub(r.p.reportedAt(t)) < failingWithin {
				failing[t.node]++
			}
		}
	}
	return failing
}

func (b *branch) kid(value string) *branch {
	i, found := slices.BinarySearchFunc(b.kids, value, func(k *branch, v string) int { return cmp.Compare(k.value, v) })
	if !found {
		b.kids = slices.Insert(b.kids, i, &branch{value: value})
	}
	return b.kids[i]
}

func (b *branch) addTasks(rev *revision, c *class, n int) {
	b.tasks += n
	for _, k := range rev.spread {
		b = b.kid(c.attribute(k))
		b.tasks += n
	}
}

// settle makes the heaps, and drops what is empty.
func (b *branch) settle() {
	b.heap.settle()
	for _, k := range b.kids {
		k.settle()
	}
	b.kids = slices.DeleteFunc(b.kids, (*branch).empty)
}

func (b *branch) empty() bool { return len(b.kids) == 0 && len(b.heap) == 0 }

// pick returns the node for the next task: at every level of the tree the branch with the fewest tasks of the service,
// then the best node in it. nil: no node has room.
func (p *placer) pick() *node {
	for !p.root.empty() {
		p.path = append(p.path[:0], p.root)
		leaf := p.root
		for len(leaf.kids) > 0 {
			leaf = slices.MinFunc(leaf.kids, func(a, b *branch) int { return cmp.Compare(a.tasks, b.tasks) })
			p.path = append(p.path, leaf)
		}
		if n := leaf.heap.pick(p.rev); n != nil {
			for _, b := range p.path {
				b.tasks++
			}
			return n
		}
		p.prune()
	}
	return nil
}

// prune drops the branches of the path that have become empty.
func (p *placer) prune() {
	for i := len(p.path) - 1; i > 0; i-- {
		p.path[i-1].kids = slices.DeleteFunc(p.path[i-1].kids, (*branch).empty)
	}
}

// The order of candidates as one number, least first: nodes where the service keeps failing come last; then by tasks of
// the service, by tasks of all services, by id.
const (
	ordBits   = 20 // 1M nodes
	totalBits = 21 // 2M tasks a node
	countBits = 22
	penalty   = 1 << (ordBits + totalBits + countBits)
	oneMore   = 1<<(ordBits+totalBits) | 1<<ordBits
)

func (n *node) key(count int, failing bool) uint64 {
	k := uint64(count)<<(ordBits+totalBits) | uint64(n.total)<<ordBits | uint64(n.ord)
	if failing {
		k |= penalty
	}
	return k
}

func countOf(key uint64) uint64 { return key >> (ordBits + totalBits) & (1<<countBits - 1) }

type candidate struct {
	key  uint64
	node *node
}

// heap is a 4-ary heap of candidates, least key first. Keys are distinct: the order of insertion does not matter.
type heap []candidate

func (h heap) settle() {
	for i := (len(h) - 2) / 4; i >= 0 && len(h) > 1; i-- {
		h.sink(i)
	}
}

func (h heap) sink(i int) {
	c := h[i]
	for {
		kid := 4*i + 1
		if kid >= len(h) {
			break
		}
		least := kid
		for k := kid + 1; k < min(kid+4, len(h)); k++ {
			if h[k].key < h[least].key {
				least = k
			}
		}
		if h[least].key >= c.key {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = c
}

// pick returns the least candidate that has room, and counts one more task on it. Those without room leave.
func (h *heap) pick(rev *revision) *node {
	for len(*h) > 0 {
		top := &(*h)[0]
		if rev.room(top.node, countOf(top.key)) == fits {
			n := top.node
			top.key += oneMore
			h.sink(0)
			return n
		}
		last := len(*h) - 1
		(*h)[0] = (*h)[last]
		*h = (*h)[:last]
		if last > 0 {
			h.sink(0)
		}
	}
	return nil
}
