package planner

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// refusal is why a node does not take a task. The filters run in the order of these constants.
// The availability of a node, checkClass and matchesNode depend on the rows only, so their results hold for
// a whole plan. The result of checkRoom changes with every placement.
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

// refusalOf maps the availability of a node to a refusal.
var refusalOf = [...]refusal{
	available: fits, down: refusedDown, inactive: refusedAvailability, unavailable: refusedUnavailable,
}

// filters holds the name of every refusal for programs, and the phrase that Docker uses for it.
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

// matches says whether the node satisfies the constraints and platforms of the revision. These must
// hold as long as a task runs there.
func (r *revision) matches(n *node) bool {
	return r.checkClass(n.class) == fits && r.matchesNode(n)
}

// checkClass returns why the nodes of a class do not match, a constraint or the platform, or fits.
func (r *revision) checkClass(c *class) refusal {
	if r.invalidConstraint != "" {
		return refusedConstraint
	}
	for _, k := range r.classConstraints {
		if !k.Matches(c.attribute(k)) {
			return refusedConstraint
		}
	}
	if len(r.platforms) > 0 && !slices.ContainsFunc(r.platforms, func(p *swarmv1.Platform) bool { return spec.Runs(c.platform, p) }) {
		return refusedPlatform
	}
	return fits
}

// matchesNode says whether the node satisfies the constraints on a node's id and host name.
func (r *revision) matchesNode(n *node) bool {
	for _, k := range r.nodeConstraints {
		if !k.Matches(n.attribute(k)) {
			return false
		}
	}
	return true
}

// checkRoom says which resource the node lacks for one more task, or fits. count is how many tasks
// of the service should run there already.
func (r *revision) checkRoom(n *node, count uint64) refusal {
	switch {
	case r.need.cpu > 0 && n.reserved.cpu+r.need.cpu > n.capacity.cpu:
		return refusedCPU
	case r.need.memory > 0 && n.reserved.memory+r.need.memory > n.capacity.memory:
		return refusedMemory
	}
	for _, g := range r.generic {
		if n.freeGeneric(g.GetKind()) < g.GetValue() {
			return refusedGeneric
		}
	}
	for _, port := range r.ports {
		if n.portInUse(port) {
			return refusedPort
		}
	}
	if r.maxReplicas > 0 && count >= r.maxReplicas {
		return refusedMaxReplicas
	}
	return fits
}

// checkNode runs all filters on one node. noImage holds the nodes that could not get the image.
func (r *revision) checkNode(n *node, count uint64, noImage map[*node]*task) refusal {
	if n.availability != available {
		return refusalOf[n.availability]
	}
	if f := r.checkClass(n.class); f != fits {
		return f
	}
	if !r.matchesNode(n) {
		return refusedConstraint
	}
	if f := r.checkRoom(n, count); f != fits {
		return f
	}
	if noImage[n] != nil {
		return refusedImage
	}
	return fits
}

// describeRefusal says why the node refuses a task. The text follows the name of the node: "n1:
// needs 2 CPUs, 1 free".
func (r *revision) describeRefusal(f refusal, n *node, count uint64) string {
	switch f {
	case refusedDown:
		return "is " + strings.ToLower(n.state.GetState().String())
	case refusedAvailability:
		return "has availability " + strings.ToLower(n.row.GetSpec().GetAvailability().String())
	case refusedUnavailable:
		return "takes no tasks: " + n.state.GetDescription().GetUnavailable()
	case refusedConstraint:
		return r.describeConstraint(n)
	case refusedPlatform:
		p := n.class.platform
		return fmt.Sprintf("has platform %s/%s, for which the image is not built", p.GetOs(), spec.Arch(p.GetArchitecture()))
	case refusedCPU:
		return fmt.Sprintf("needs %s, %s free", cpuText(r.need.cpu), numberOf(cpuText(n.capacity.cpu-n.reserved.cpu)))
	case refusedMemory:
		return fmt.Sprintf("needs %s of memory, %s free", memoryText(r.need.memory), memoryText(n.capacity.memory-n.reserved.memory))
	case refusedGeneric:
		for _, g := range r.generic {
			if free := n.freeGeneric(g.GetKind()); free < g.GetValue() {
				return fmt.Sprintf("needs %d %s, %d free", g.GetValue(), g.GetKind(), free)
			}
		}
	case refusedPort:
		for _, port := range r.ports {
			if n.portInUse(port) {
				return "port " + port + " is used by " + n.portHolder(port)
			}
		}
	case refusedMaxReplicas:
		return fmt.Sprintf("already runs %d tasks of the service, at most %d are allowed", count, r.maxReplicas)
	}
	return "fits"
}

func numberOf(s string) string {
	number, _, _ := strings.Cut(s, " ")
	return number
}

// describeConstraint names the first constraint that the node does not satisfy.
func (r *revision) describeConstraint(n *node) string {
	if r.invalidConstraint != "" {
		return fmt.Sprintf("cannot be checked: constraint %q is not valid", r.invalidConstraint)
	}
	for _, list := range [][]spec.Constraint{r.classConstraints, r.nodeConstraints} {
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

// shortage returns how much CPU or memory the node lacks, and 0 for other refusals. explain uses it
// to find the node that lacks least.
func (r *revision) shortage(f refusal, n *node) int64 {
	switch f {
	case refusedCPU:
		return r.need.cpu - (n.capacity.cpu - n.reserved.cpu)
	case refusedMemory:
		return r.need.memory - (n.capacity.memory - n.reserved.memory)
	}
	return 0
}

// explain runs the filters on all given nodes and counts the refusals. As the nearest miss it
// reports the node that passed most filters; among equals, the node with the smallest shortage.
func (r *revision) explain(nodes []*node, count func(*node) uint64, noImage map[*node]*task) *Explanation {
	var tally [refusals]uint32
	var nearest *node
	var missed refusal
	for _, n := range nodes {
		f := r.checkNode(n, count(n), noImage)
		if f == fits {
			continue // another task of this plan took the room, in a spread branch that came first
		}
		tally[f]++
		if f > missed || f == missed && r.shortage(f, n) < r.shortage(f, nearest) {
			nearest, missed = n, f
		}
	}
	words := phrases(nodes)
	v := &Explanation{Err: summary(tally, words), Unplaced: &swarmv1.Unplaced{}}
	for f, n := range tally {
		if n > 0 {
			v.Unplaced.Refusals = append(v.Unplaced.Refusals, &swarmv1.Refusal{Filter: filters[f].name, Nodes: n, Reason: phrase(words(refusal(f)), n)})
		}
	}
	slices.SortStableFunc(v.Unplaced.Refusals, func(a, b *swarmv1.Refusal) int { return cmp.Compare(b.GetNodes(), a.GetNodes()) })
	if nearest != nil {
		v.Unplaced.Nearest = nearest.name() + ": " + r.describeRefusal(missed, nearest, count(nearest))
		if missed == refusedImage {
			v.Unplaced.Nearest = nearest.name() + ": " + noImage[nearest].status.GetErr()
		}
	}
	return v
}

// phrases returns a function that gives the phrase of a refusal. For refusedUnavailable the phrase
// includes the first part of what the first such node reports about itself.
func phrases(nodes []*node) func(refusal) string {
	detail := ""
	for _, n := range nodes {
		if n.availability == unavailable {
			short, _, _ := strings.Cut(n.state.GetDescription().GetUnavailable(), ":")
			detail = ": " + strings.ReplaceAll(short, "%", "%%")
			break
		}
	}
	return func(f refusal) string {
		if f == refusedUnavailable {
			return filters[f].phrase + detail
		}
		return filters[f].phrase
	}
}

// summary joins the reasons as Docker does, the most frequent one first: "no suitable node
// (scheduling constraints not satisfied on 3 nodes; insufficient resources on 1 node)".
func summary(tally [refusals]uint32, words func(refusal) string) string {
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
