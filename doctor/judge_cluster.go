package doctor

import (
	"fmt"
	"slices"
	"time"
)

const (
	// If clocks differ by clockApart or more, log lines of two nodes come in the wrong order.
	// clockBroken is half of pki.Backdate, the time by which new certificates are backdated. A node
	// whose clock differs by more than pki.Backdate cannot join.
	clockApart  = time.Second
	clockBroken = 30 * time.Minute
)

func judgeCluster(c Cluster) []Finding {
	v := verdict{subject: "nodes"}
	if c.Error != "" {
		v.add(Failure, "this node reports: "+c.Error, "do what the message says; `swarm info` prints it too")
	}
	switch {
	case c.State == "":
		v.add(Note, "no daemon answers on this host: only the host itself was looked at", "")
	case !c.Active():
		v.add(Note, "this host is part of no cluster ("+c.State+"): only the host itself was looked at", "")
	case c.Problem != "":
		v.add(Failure, "the other nodes cannot be asked: "+c.Problem, "see `swarm info` and the daemon's log")
	}
	if len(c.Nodes) > 1 && !slices.ContainsFunc(c.Nodes, Node.answers) {
		v.add(Failure, fmt.Sprintf("none of the %d other nodes answers: %s", len(c.Nodes), c.Nodes[0].Problem),
			"this host is probably cut off from the others: look at its cable, its addresses (`ip address`), its routes (`ip route`) and its firewall")
		return v.findings
	}
	for _, n := range c.Nodes {
		v.findings = append(v.findings, judgeNode(n)...)
	}
	return v.orOK("this node is alone in its cluster")
}

// answers reports whether the node was asked, or at least one of its ports answered.
func (n Node) answers() bool {
	return n.Problem == "" || slices.ContainsFunc(n.Ways, func(w Way) bool { return w.Reason == "" })
}

func judgeNode(n Node) []Finding {
	v := verdict{subject: "nodes"}
	name := fmt.Sprintf("%s (%s)", n.Name, n.Address)
	if !n.answers() {
		v.add(Failure, fmt.Sprintf("%s does not answer at any port: %s", name, n.Problem),
			fmt.Sprintf("see that the host is up and its daemon runs; if it is gone for good: `swarm node rm --force %s`, for a manager after `swarm node demote %s`", n.Name, n.Name))
		return v.findings
	}
	for _, w := range n.Ways {
		if w.Reason != "" {
			judgeWay(&v, name, n, w)
		}
	}
	if n.Problem != "" {
		v.add(Failure, fmt.Sprintf("%s cannot be asked: %s", name, n.Problem), "see that its daemon runs (`swarm info` there), and run `swarm doctor` there")
		return v.findings
	}
	if n.Unavailable != "" {
		v.add(Failure, fmt.Sprintf("%s cannot do its work: %s", name, n.Unavailable),
			fmt.Sprintf("mend this on %s; if more than half of the managers store nothing, every change of the cluster fails", n.Name))
	}
	judgeOffset(&v, name, n)
	return v.orOK(fmt.Sprintf("%s: every port answers in both directions, clock %s apart", name, round(n.Offset.Abs())))
}

func judgeWay(v *verdict, name string, n Node, w Way) {
	port := fmt.Sprintf("%d/%s", w.Port, w.Network)
	from, to := "this host", name
	at := n.Name
	if w.In {
		from, to, at = name, "this host", "this host"
	}
	if w.Bytes > 0 {
		v.add(Failure, fmt.Sprintf("packets of %d bytes do not come from %s to %s, smaller ones do: large transfers between containers hang", w.Bytes, from, to),
			"give both hosts the MTU of the narrowest link between them, or see that all of it carries that size")
		return
	}
	v.add(Failure, fmt.Sprintf("port %s (%s) is not reached from %s to %s: %s", port, w.For, from, to, w.Reason),
		fmt.Sprintf("accept %s in the firewall of %s, and in those of the network between (security groups)", port, at))
}

func judgeOffset(v *verdict, name string, n Node) {
	// The offset is known only within half of the round trip.
	apart := n.Offset.Abs() - n.RoundTrip/2
	word := "ahead of"
	if n.Offset < 0 {
		word = "behind"
	}
	text := fmt.Sprintf("the clock of %s is %s %s this host's", name, round(n.Offset.Abs()), word)
	remedy := "keep both clocks right with chrony or systemd-timesyncd"
	switch {
	case apart >= clockBroken:
		v.add(Failure, text+": certificates will be refused as not yet valid", remedy)
	case apart >= clockApart:
		v.add(Warning, text+": log lines come in the wrong order", remedy)
	}
}
