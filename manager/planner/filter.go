package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// refusal is why a node does not take a task. There is one chain of filters, in this order, and one function for each of
// its two parts: open and suits, which hold for a whole plan, and room, which changes with every placement.
type refusal uint8

const (
	fits refusal = iota
	refusedDown
	refusedAvailability
	refusedUnavailable
	refusedConstraint
	refusedPlatform
	refusedCPU
	refusedMemory
	refusedGeneric
	refusedPort
	refusedMaxReplicas
	refusedImage
	refusals
)

// filters names the refusals for machines, and words them as Docker does.
var filters = [refusals]struct{ name, phrase string }{
	refusedDown:         {"down", "%s not available for new tasks"},
	refusedAvailability: {"availability", "%s not available for new tasks"},
	refusedUnavailable:  {"unavailable", "%s not available for new tasks"},
	refusedConstraint:   {"constraint", "scheduling constraints not satisfied on %s"},
	refusedPlatform:     {"platform", "unsupported platform on %s"},
	refusedCPU:          {"cpu", "insufficient resources on %s"},
	refusedMemory:       {"memory", "insufficient resources on %s"},
	refusedGeneric:      {"generic", "insufficient resources on %s"},
	refusedPort:         {"port", "host-mode port already in use on %s"},
	refusedMaxReplicas:  {"max-replicas", "max replicas per node limit reached on %s"},
	refusedImage:        {"image", "image not available on %s"},
}

// judge says whether the node takes new tasks at all; the answer stands in node.open.
func (n *node) judge() refusal {
	switch {
	case n.row == nil || n.state.GetState() != swarmv1.NodeState_READY:
		return refusedDown
	case n.row.GetSpec().GetAvailability() != swarmv1.NodeSpec_ACTIVE:
		return refusedAvailability
	case n.state.GetDescription().GetUnavailable() != "":
		return refusedUnavailable
	}
	return fits
}

// suits says whether tasks of the revision may be on the node, as far as constraints and platforms go: what must hold
// as long as the task runs.
func (r *revision) suits(n *node) bool {
	return r.suitsClass(n.class) == fits && r.suitsNode(n)
}

func (r *revision) suitsClass(c *class) refusal {
	if r.broken != "" {
		return refusedConstraint
	}
	for _, k := range r.shared {
		if !k.Matches(c.attribute(k)) {
			return refusedConstraint
		}
	}
	if len(r.platforms) > 0 && !slices.ContainsFunc(r.platforms, func(p *swarmv1.Platform) bool { return spec.Runs(c.platform, p) }) {
		return refusedPlatform
	}
	return fits
}

func (r *revision) suitsNode(n *node) bool {
	for _, k := range r.single {
		if !k.Matches(n.attribute(k)) {
			return false
		}
	}
	return true
}

// room says whether the node has what one more task needs; count is how many of the service should run there already.
func (r *revision) room(n *node, count uint64) refusal {
	switch {
	case r.need.cpu > 0 && n.used.cpu+r.need.cpu > n.capacity.cpu:
		return refusedCPU
	case r.need.memory > 0 && n.used.memory+r.need.memory > n.capacity.memory:
		return refusedMemory
	}
	for _, g := range r.generic {
		if n.free(g.GetKind()) < g.GetValue() {
			return refusedGeneric
		}
	}
	for _, port := range r.ports {
		if n.publishes(port) {
			return refusedPort
		}
	}
	if r.maxReplicas > 0 && count >= r.maxReplicas {
		return refusedMaxReplicas
	}
	return fits
}

// refuses runs the whole chain on one node; lacking are the nodes that could not get the image.
func (r *revision) refuses(n *node, count uint64, lacking map[*node]*task) refusal {
	if n.open != fits {
		return n.open
	}
	if f := r.suitsClass(n.class); f != fits {
		return f
	}
	if !r.suitsNode(n) {
		return refusedConstraint
	}
	if f := r.room(n, count); f != fits {
		return f
	}
	if lacking[n] != nil {
		return refusedImage
	}
	return fits
}

// why says in a sentence why the node refuses.
func (r *revision) why(f refusal, n *node, count uint64) string {
	switch f {
	case refusedDown:
		return "is " + strings.ToLower(n.state.GetState().String())
	case refusedAvailability:
		return "has availability " + strings.ToLower(n.row.GetSpec().GetAvailability().String())
	case refusedUnavailable:
		return "takes no tasks: " + n.state.GetDescription().GetUnavailable()
	case refusedConstraint:
		return r.whyConstraint(n)
	case refusedPlatform:
		p := n.class.platform
		return fmt.Sprintf("is %s/%s, and the image is not built for that", p.GetOs(), spec.Arch(p.GetArchitecture()))
	case refusedCPU:
		return fmt.Sprintf("needs %s, %s free", cpuText(r.need.cpu), numberOf(cpuText(n.capacity.cpu-n.used.cpu)))
	case refusedMemory:
		return fmt.Sprintf("needs %s of memory, %s free", memoryText(r.need.memory), memoryText(n.capacity.memory-n.used.memory))
	case refusedGeneric:
		for _, g := range r.generic {
			if free := n.free(g.GetKind()); free < g.GetValue() {
				return fmt.Sprintf("needs %d %s, %d free", g.GetValue(), g.GetKind(), free)
			}
		}
	case refusedPort:
		for _, port := range r.ports {
			if n.publishes(port) {
				return "has port " + port + " taken by " + n.publisher(port)
			}
		}
	case refusedMaxReplicas:
		return fmt.Sprintf("runs %d of the service already, at most %d are allowed", count, r.maxReplicas)
	}
	return "fits"
}

func numberOf(s string) string {
	number, _, _ := strings.Cut(s, " ")
	return number
}

func (r *revision) whyConstraint(n *node) string {
	if r.broken != "" {
		return fmt.Sprintf("cannot be judged: constraint %q is not valid", r.broken)
	}
	for _, list := range [][]spec.Constraint{r.shared, r.single} {
		for _, k := range list {
			have := n.attribute(k)
			switch {
			case k.Matches(have):
			case have == "":
				return fmt.Sprintf("does not satisfy %s: it has no %s", k, k.Key())
			default:
				return fmt.Sprintf("does not satisfy %s: its %s is %s", k, k.Key(), have)
			}
		}
	}
	return "does not satisfy the constraints"
}

// shortage says how far a node is from having room, to find the nearest miss: less is nearer.
func (r *revision) shortage(f refusal, n *node) int64 {
	switch f {
	case refusedCPU:
		return r.need.cpu - (n.capacity.cpu - n.used.cpu)
	case refusedMemory:
		return r.need.memory - (n.capacity.memory - n.used.memory)
	}
	return 0
}

// verdict explains to the user why no node takes a task.
type verdict struct {
	err      string
	unplaced *swarmv1.Unplaced
}

// explain asks every one of the nodes why it refuses. The nearest miss is the node that got furthest through the filters.
func (r *revision) explain(nodes []*node, count func(*node) uint64, lacking map[*node]*task) verdict {
	var tally [refusals]uint32
	var nearest *node
	var missed refusal
	for _, n := range nodes {
		f := r.refuses(n, count(n), lacking)
		if f == fits {
			continue // its room went to another task of this plan, in a branch of the spread that was tried first
		}
		tally[f]++
		if f > missed || f == missed && r.shortage(f, n) < r.shortage(f, nearest) {
			nearest, missed = n, f
		}
	}
	words := wording(nodes)
	v := verdict{err: sentence(tally, words), unplaced: &swarmv1.Unplaced{}}
	for f, n := range tally {
		if n > 0 {
			v.unplaced.Refusals = append(v.unplaced.Refusals, &swarmv1.Refusal{Filter: filters[f].name, Nodes: n, Reason: phrase(words(refusal(f)), n)})
		}
	}
	slices.SortStableFunc(v.unplaced.Refusals, func(a, b *swarmv1.Refusal) int { return cmp.Compare(b.GetNodes(), a.GetNodes()) })
	if nearest != nil {
		v.unplaced.Nearest = nearest.name() + ": " + r.why(missed, nearest, count(nearest))
		if missed == refusedImage {
			v.unplaced.Nearest = nearest.name() + ": " + lacking[nearest].status.GetErr()
		}
	}
	return v
}

// wording gives the phrase of every refusal: for nodes that take no tasks by their own word, with what the first of them
// says of itself, in short.
func wording(nodes []*node) func(refusal) string {
	trouble := ""
	for _, n := range nodes {
		if n.open == refusedUnavailable {
			short, _, _ := strings.Cut(n.state.GetDescription().GetUnavailable(), ":")
			trouble = ": " + strings.ReplaceAll(short, "%", "%%")
			break
		}
	}
	return func(f refusal) string {
		if f == refusedUnavailable {
			return filters[f].phrase + trouble
		}
		return filters[f].phrase
	}
}

// sentence is Docker's: "no suitable node (scheduling constraints not satisfied on 3 nodes; insufficient resources on 1
// node)", the most frequent reason first.
func sentence(tally [refusals]uint32, words func(refusal) string) string {
	type part struct {
		text  string
		nodes uint32
	}
	var parts []part
	for f, n := range tally {
		if n == 0 {
			continue
		}
		text := words(refusal(f))
		if i := slices.IndexFunc(parts, func(p part) bool { return p.text == text }); i >= 0 {
			parts[i].nodes += n
		} else {
			parts = append(parts, part{text, n})
		}
	}
	if len(parts) == 0 {
		return "no suitable node"
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.nodes, a.nodes) })
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = phrase(p.text, p.nodes)
	}
	return "no suitable node (" + strings.Join(texts, "; ") + ")"
}

func phrase(format string, n uint32) string {
	if n == 1 {
		return fmt.Sprintf(format, "1 node")
	}
	return fmt.Sprintf(format, fmt.Sprintf("%d nodes", n))
}

func sortedKeys[V any](m map[uint64]V) []uint64 { return slices.Sorted(maps.Keys(m)) }
