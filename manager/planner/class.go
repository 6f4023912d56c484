package planner

import (
	"maps"
	"slices"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// class is a set of nodes that constraints on role, platform and labels cannot tell apart, so that such a constraint is
// judged once for all of them. Constraints on a node's id or hostname are judged node by node.
type class struct {
	signature string
	nodes     []*node // in no order
	role      string
	platform  *swarmv1.Platform
	labels    map[string]string
	engine    map[string]string
}

func (p *Picture) classify(n *node) {
	var signature string
	if n.row != nil {
		signature = signatureOf(n)
	}
	if old := n.class; old != nil {
		if n.row != nil && old.signature == signature {
			return
		}
		if old.leave(n); len(old.nodes) == 0 {
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
			signature: signature,
			role:      strings.ToLower(n.row.GetSpec().GetRole().String()),
			platform:  d.GetPlatform(),
			labels:    n.row.GetSpec().GetLabels(),
			engine:    d.GetEngine().GetLabels(),
		}
		p.classes[signature] = c
	}
	n.class, n.member = c, len(c.nodes)
	c.nodes = append(c.nodes, n)
}

func (c *class) leave(n *node) {
	last := len(c.nodes) - 1
	c.nodes[n.member] = c.nodes[last]
	c.nodes[n.member].member = n.member
	c.nodes = c.nodes[:last]
	n.class = nil
}

// signatureOf is equal for two nodes exactly when they are of one class.
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

// attribute is what the nodes of the class have for a constraint or preference that does not tell single nodes apart.
func (c *class) attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrRole:
		return c.role
	case spec.AttrOS:
		return c.platform.GetOs()
	case spec.AttrArch:
		return c.platform.GetArchitecture()
	case spec.AttrNodeLabel:
		return c.labels[k.Label]
	case spec.AttrEngineLabel:
		return c.engine[k.Label]
	}
	return ""
}

func (n *node) attribute(k spec.Constraint) string {
	switch k.Attr {
	case spec.AttrNodeID:
		return n.id
	case spec.AttrHostname:
		return n.hostname()
	}
	return n.class.attribute(k)
}
