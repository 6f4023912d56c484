package object

import (
	"cmp"
	"iter"
	"maps"
	"strings"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Nodes describes nodes. Their names are not unique: hosts may join with one hostname.
func Nodes() crud.Kind[*swarmv1.Node] {
	return crud.Kind[*swarmv1.Node]{
		Word: "node", ListCommand: "swarm node ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Node] { return v.Nodes },
		TableID: table.Node,
		Name:    func(v *table.View, n *swarmv1.Node) string { return NodeName(v, n.GetId()) },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Node] {
			return crud.Where(v.Nodes.All(), func(n *swarmv1.Node) bool { return NodeHasName(n, name) })
		},
		Attributes: func(_ *table.View, n *swarmv1.Node) map[string]string {
			role, availability := n.GetSpec().GetRole().String(), n.GetSpec().GetAvailability().String()
			return map[string]string{"name": Hostname(n), "role": strings.ToLower(role), "availability": strings.ToLower(availability)}
		},
		Changed: func(old, n *swarmv1.Node) map[string]string {
			a := crud.Difference("role", old.GetSpec().GetRole(), n.GetSpec().GetRole())
			maps.Copy(a, crud.Difference("availability", old.GetSpec().GetAvailability(), n.GetSpec().GetAvailability()))
			return a
		},
		Subject: NodeSubject,
		Compare: crud.ByName((*swarmv1.Node).GetHostname),
	}
}

// NodeHasName reports whether a node has the name, as its own name or as its hostname. Case does
// not matter, as in hostnames.
func NodeHasName(n *swarmv1.Node, name string) bool {
	return strings.EqualFold(n.GetSpec().GetName(), name) || strings.EqualFold(n.GetHostname(), name)
}

// NodeName returns what users call a node: its name, or its hostname if it has none. It returns ""
// if the node does not exist.
func NodeName(v *table.View, id string) string {
	n, ok := v.Nodes.Get(id)
	if !ok {
		return ""
	}
	return cmp.Or(n.GetSpec().GetName(), n.GetHostname())
}

// Hostname returns the hostname of a node, or its id if it has none.
func Hostname(n *swarmv1.Node) string { return cmp.Or(n.GetHostname(), n.GetId()) }

// NodeSubject returns what filters see of a node. The labels of its engine count as its own.
func NodeSubject(v *table.View, n *swarmv1.Node) crud.Subject {
	st, _ := v.NodeStates.Get(n.GetId())
	return crud.Subject{
		ID: n.GetId(), Names: []string{n.GetSpec().GetName(), n.GetHostname()}, Nodes: []string{n.GetId()},
		Labels: []map[string]string{n.GetSpec().GetLabels(), st.GetDescription().GetEngine().GetLabels()},
		Role:   n.GetSpec().GetRole(), HasRole: true,
	}
}
