package cluster

import (
	"maps"
	"slices"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Class is a set of nodes with equal role, platform and labels. A constraint on these is evaluated
// once for the class. Constraints on a node's id or host name are evaluated for each node.
type Class struct {
	signature    string
	Nodes        []*Node // in no particular order
	role         string
	Platform     *swarmv1.Platform
	nodeLabels   map[string]string
	engineLabels map[string]string
}

// setClass moves the node to the class that its rows say. A node without a row has no class.
func (state *State) setClass(n *Node) {
	var signature string
	if n.Row != nil {
		signature = signatureOf(n)
	}
	if old := n.Class; old != nil {
		if n.Row != nil && old.signature == signature {
			return
		}
		old.removeNode(n)
		if len(old.Nodes) == 0 {
			delete(state.classes, old.signature)
		}
	}
	if n.Row == nil {
		return
	}
	c := state.classes[signature]
	if c == nil {
		d := n.State.GetDescription()
		c = &Class{
			signature:    signature,
			role:         strings.ToLower(n.Row.GetSpec().GetRole().String()),
			Platform:     d.GetPlatform(),
			nodeLabels:   n.Row.GetSpec().GetLabels(),
			engineLabels: d.GetEngine().GetLabels(),
		}
		state.classes[signature] = c
	}
	n.Class, n.classIndex = c, len(c.Nodes)
	c.Nodes = append(c.Nodes, n)
}

// removeNode removes a node from the class. It fills the gap with the last node of the list.
func (c *Class) removeNode(n *Node) {
	last := len(c.Nodes) - 1
	c.Nodes[n.classIndex] = c.Nodes[last]
	c.Nodes[n.classIndex].classIndex = n.classIndex
	c.Nodes = c.Nodes[:last]
	n.Class = nil
}

// signatureOf returns a string that is equal for two nodes if and only if they belong to the same
// class.
func signatureOf(n *Node) string {
	d := n.State.GetDescription()
	var b strings.Builder
	field := func(s string) {
		b.WriteString(s)
		b.WriteByte(0)
	}
	field(n.Row.GetSpec().GetRole().String())
	field(d.GetPlatform().GetOs())
	field(d.GetPlatform().GetArchitecture())
	for _, labels := range []map[string]string{n.Row.GetSpec().GetLabels(), d.GetEngine().GetLabels()} {
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			field(k)
			field(labels[k])
		}
		b.WriteByte(1)
	}
	return b.String()
}

// Attribute returns the value that all nodes of the class have for the attribute of a constraint or
// spread preference. It returns "" if the nodes do not have it, or if it is the id or the host name
// of a node.
func (c *Class) Attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrRole:
		return c.role
	case spec.AttrOS:
		return c.Platform.GetOs()
	case spec.AttrArch:
		return c.Platform.GetArchitecture()
	case spec.AttrNodeLabel:
		return c.nodeLabels[k.Label]
	case spec.AttrEngineLabel:
		return c.engineLabels[k.Label]
	}
	return ""
}

// Attribute returns the node's value for the attribute of a constraint, or "" if it has none.
func (n *Node) Attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrNodeID:
		return n.ID
	case spec.AttrHostname:
		return n.Hostname()
	}
	return n.Class.Attribute(k)
}
