package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// refusal is why a node does not take a task. The filters run in the order of these constants. The
// availability of a node, checkClass and matchesNode depend on the rows only, so their results hold
// for a whole plan. The result of checkRoom changes with every placement.
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
	cluster.Available: fits, cluster.Down: refusedDown, cluster.Inactive: refusedAvailability, cluster.Unavailable: refusedUnavailable,
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

// Matches says whether the node satisfies the constraints and platforms of the revision. They must
// hold for as long as a task runs there, and not only when it is placed.
func Matches(r *cluster.Revision, n *cluster.Node) bool {
	return checkClass(r, n.Class) == fits && matchesNode(r, n)
}

// checkClass returns refusedConstraint or refusedPlatform if the nodes of a class do not match the
// revision, or fits.
func checkClass(r *cluster.Revision, c *cluster.Class) refusal {
	if r.InvalidConstraint != "" {
		return refusedConstraint
	}
	for _, k := range r.ClassConstraints {
		if !k.Matches(c.Attribute(k)) {
			return refusedConstraint
		}
	}
	if len(r.Platforms) > 0 && !slices.ContainsFunc(r.Platforms, func(p *swarmv1.Platform) bool { return spec.PlatformMatches(c.Platform, p) }) {
		return refusedPlatform
	}
	return fits
}

// matchesNode says whether the node satisfies the constraints on a node's id and host name.
func matchesNode(r *cluster.Revision, n *cluster.Node) bool {
	for _, k := range r.NodeConstraints {
		if !k.Matches(n.Attribute(k)) {
			return false
		}
	}
	return true
}

// checkRoom returns the refusal for the first resource that the node lacks for one more task, or
// fits. count is how many tasks of the service should run there already.
func checkRoom(r *cluster.Revision, n *cluster.Node, count uint64) refusal {
	switch {
	case r.Need.CPU > 0 && n.FreeCPU() < r.Need.CPU:
		return refusedCPU
	case r.Need.Memory > 0 && n.FreeMemory() < r.Need.Memory:
		return refusedMemory
	}
	for _, g := range r.Generic {
		if n.FreeGeneric(g.GetKind()) < g.GetValue() {
			return refusedGeneric
		}
	}
	for _, port := range r.Ports {
		if n.PortInUse(port) {
			return refusedPort
		}
	}
	if r.MaxReplicas > 0 && count >= r.MaxReplicas {
		return refusedMaxReplicas
	}
	return fits
}

// checkNode runs all filters on one node. noImage holds the nodes that could not get the image.
func checkNode(r *cluster.Revision, n *cluster.Node, count uint64, noImage map[*cluster.Node]*cluster.Task) refusal {
	if n.Availability != cluster.Available {
		return refusalOf[n.Availability]
	}
	if f := checkClass(r, n.Class); f != fits {
		return f
	}
	if !matchesNode(r, n) {
		return refusedConstraint
	}
	if f := checkRoom(r, n, count); f != fits {
		return f
	}
	if noImage[n] != nil {
		return refusedImage
	}
	return fits
}

// describeRefusal returns the text for users of why the node refuses a task. It is shown after the
// name of the node: "n1: needs 2 CPUs, 1 free".
func describeRefusal(r *cluster.Revision, f refusal, n *cluster.Node, count uint64) string {
	switch f {
	case refusedDown:
		return "is " + strings.ToLower(n.State.GetState().String())
	case refusedAvailability:
		return "has availability " + strings.ToLower(n.Row.GetSpec().GetAvailability().String())
	case refusedUnavailable:
		return "takes no tasks: " + n.State.GetDescription().GetUnavailable()
	case refusedConstraint:
		return describeConstraint(r, n)
	case refusedPlatform:
		p := n.Class.Platform
		return fmt.Sprintf("has platform %s/%s, for which the image is not built", p.GetOs(), spec.Arch(p.GetArchitecture()))
	case refusedCPU:
		return fmt.Sprintf("needs %s, %s free", cpuText(r.Need.CPU), numberOf(cpuText(n.FreeCPU())))
	case refusedMemory:
		return fmt.Sprintf("needs %s of memory, %s free", memoryText(r.Need.Memory), memoryText(n.FreeMemory()))
	case refusedGeneric:
		for _, g := range r.Generic {
			if free := n.FreeGeneric(g.GetKind()); free < g.GetValue() {
				return fmt.Sprintf("needs %d %s, %d free", g.GetValue(), g.GetKind(), free)
			}
		}
	case refusedPort:
		for _, port := range r.Ports {
			if n.PortInUse(port) {
				return "port " + port.Suffix() + " is used by " + n.PortHolder(port)
			}
		}
	case refusedMaxReplicas:
		return fmt.Sprintf("already runs %d tasks of the service, at most %d are allowed", count, r.MaxReplicas)
	}
	return "fits"
}

func numberOf(s string) string {
	number, _, _ := strings.Cut(s, " ")
	return number
}

// describeConstraint names the first constraint that the node does not satisfy.
func describeConstraint(r *cluster.Revision, n *cluster.Node) string {
	if r.InvalidConstraint != "" {
		return fmt.Sprintf("cannot be checked: constraint %q is not valid", r.InvalidConstraint)
	}
	for _, list := range [][]spec.Constraint{r.ClassConstraints, r.NodeConstraints} {
		for _, k := range list {
			have := n.Attribute(k)
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
func shortage(r *cluster.Revision, f refusal, n *cluster.Node) int64 {
	switch f {
	case refusedCPU:
		return r.Need.CPU - n.FreeCPU()
	case refusedMemory:
		return r.Need.Memory - n.FreeMemory()
	}
	return 0
}

// explain runs the filters on all given nodes and counts the refusals. As the nearest miss it
// reports the node that passed most filters; among equals, the node with the smallest shortage.
func explain(r *cluster.Revision, nodes []*cluster.Node, count func(*cluster.Node) uint64, noImage map[*cluster.Node]*cluster.Task) *Explanation {
	var tally [refusals]uint32
	var nearest *cluster.Node
	var missed refusal
	for _, n := range nodes {
		f := checkNode(r, n, count(n), noImage)
		if f == fits {
			continue // cannot happen: explain is called only when no node fits
		}
		tally[f]++
		if f > missed || f == missed && shortage(r, f, n) < shortage(r, f, nearest) {
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
		v.Unplaced.Nearest = nearest.Name() + ": " + describeRefusal(r, missed, nearest, count(nearest))
		if missed == refusedImage {
			v.Unplaced.Nearest = nearest.Name() + ": " + noImage[nearest].Status.GetErr()
		}
	}
	return v
}

// phrases returns a function that gives the phrase of a refusal. For refusedUnavailable the phrase
// includes the first part of what the first such node reports about itself.
func phrases(nodes []*cluster.Node) func(refusal) string {
	detail := ""
	for _, n := range nodes {
		if n.Availability == cluster.Unavailable {
			short, _, _ := strings.Cut(n.State.GetDescription().GetUnavailable(), ":")
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
