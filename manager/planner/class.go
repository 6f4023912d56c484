package planner

import (
	"maps"
	"slices"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// class is a set of nodes with equal role, platform and labels. A constraint on these is evaluated
// once for the class. Constraints on a node's id or host name are evaluated for each node.
type class struct {
	signature    string
	nodes        []*node // in no particular order
	role         string
	platform     *swarmv1.Platform
	nodeLabels   map[string]string
	engineLabels map[string]string
}

// setClass moves the node to the class that its rows say. A node without a row has no class.
func (p *State) setClass(n *node) {
	var signature string
	if n.row != nil {
		signature = signatureOf(n)
	}
	if old := n.class; old != nil {
		if n.row != nil && old.signature == signature {
			return
		}
		if old.removeNode(n); len(old.nodes) == 0 {
			delete(p.classes, old.signature)
		}
	}
	if n.row == nil {
		return
	}
	c := p.classes[signature]
	if c == nil {
		d := n.state.GetDescription()
		c = &class{
			signature:    signature,
			role:         strings.ToLower(n.row.GetSpec().GetRole().String()),
			platform:     d.GetPlatform(),
			nodeLabels:   n.row.GetSpec().GetLabels(),
			engineLabels: d.GetEngine().GetLabels(),
		}
		p.classes[signature] = c
	}
	n.class, n.classIndex = c, len(c.nodes)
	c.nodes = append(c.nodes, n)
}

// removeNode removes a node from the class. It fills the gap with the last node of the list.
func (c *class) removeNode(n *node) {
	last := len(c.nodes) - 1
	c.nodes[n.classIndex] = c.nodes[last]
	c.nodes[n.classIndex].classIndex = n.classIndex
	c.nodes = c.nodes[:last]
	n.class = nil
}

// signatureOf returns a string that is equal for two nodes if and only if they belong to the same
// class.
func signatureOf(n *node) string {
	d := n.state.GetDescription()
	var b strings.Builder
	field := func(s string) {
		b.WriteString(s)
		b.WriteByte(0)
	}
	field(n.row.GetSpec().GetRole().String())
	field(d.GetPlatform().GetOs())
	field(d.GetPlatform().GetArchitecture())
	for _, labels := range []map[string]string{n.row.GetSpec().GetLabels(), d.GetEngine().GetLabels()} {
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			field(k)
			field(labels[k])
		}
		b.WriteByte(1)
	}
	return b.String()
}

// attribute returns the value that all nodes of the class have for the attribute of a constraint or
// spread preference. It returns "" if the nodes do not have it, or if it is the id or the host name
// of a node.
func (c *class) attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrRole:
		return c.role
	case spec.AttrOS:
		return c.platform.GetOs()
	case spec.AttrArch:
		return c.platform.GetArchitecture()
	case spec.AttrNodeLabel:
		return c.nodeLabels[k.Label]
	case spec.AttrEngineLabel:
		return c.engineLabels[k.Label]
	}
	return ""
}

// attribute returns the node's value for the attribute of a constraint, or "" if it has none.
func (n *node) attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrNodeID:
		return n.id
	case spec.AttrHostname:
		return n.hostname()
	}
	return n.class.attribute(k)
}
