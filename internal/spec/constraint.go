package spec

import (
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Attribute is the property of a node that a constraint compares.
type Attribute uint8

const (
	// AttrNodeID is the id of the node. The id and the hostname differ from node to node; many
	// nodes may share the other attributes.
	AttrNodeID Attribute = iota
	// AttrHostname is the hostname of the node.
	AttrHostname
	// AttrRole is "manager" or "worker".
	AttrRole
	// AttrOS is the operating system in the node's description: "linux".
	AttrOS
	// AttrArch is the architecture in the node's description, as Go names it.
	AttrArch
	// AttrNodeLabel is a label that an operator gave to the node.
	AttrNodeLabel
	// AttrEngineLabel is a label that the node reports about itself.
	AttrEngineLabel
)

// Constraint is a parsed placement constraint.
type Constraint struct {
	Attr Attribute
	// Label is the key of the label for AttrNodeLabel and AttrEngineLabel.
	Label string
	// Not is true if the operator is != .
	Not   bool
	Value string
}

const (
	nodeLabelPrefix   = "node.labels."
	engineLabelPrefix = "engine.labels."
	constraintKeys    = "node.id, node.hostname, node.role, node.platform.os, node.platform.arch, node.labels.KEY"
)

// String returns the constraint in the form that ParseConstraint parses.
func (c Constraint) String() string {
	op := "=="
	if c.Not {
		op = "!="
	}
	return c.Key() + op + c.Value
}

// Key returns the left side of the constraint.
func (c Constraint) Key() string {
	switch c.Attr {
	case AttrNodeID:
		return "node.id"
	case AttrHostname:
		return "node.hostname"
	case AttrRole:
		return "node.role"
	case AttrOS:
		return "node.platform.os"
	case AttrArch:
		return "node.platform.arch"
	case AttrNodeLabel:
		return nodeLabelPrefix + c.Label
	case AttrEngineLabel:
		return engineLabelPrefix + c.Label
	}
	return "?"
}

// PerNode reports whether the constraint compares the id or the hostname. All other attributes may
// have the same value on several nodes.
func (c Constraint) PerNode() bool { return c.Attr == AttrNodeID || c.Attr == AttrHostname }

// Matches reports whether a node whose attribute has the value have satisfies the constraint. The
// comparison ignores case, as in Docker. A label that the node lacks has the value "".
func (c Constraint) Matches(have string) bool {
	if c.Attr == AttrArch {
		return (Arch(have) == Arch(c.Value)) != c.Not
	}
	return strings.EqualFold(have, c.Value) != c.Not
}

// ParseConstraints parses the constraints of a service. A node must satisfy all of them.
func ParseConstraints(list []string) ([]Constraint, error) {
	out := make([]Constraint, 0, len(list))
	for _, s := range list {
		c, err := ParseConstraint(s)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// ParseConstraint parses "KEY==VALUE" or "KEY!=VALUE".
func ParseConstraint(s string) (Constraint, error) {
	key, value, not, ok := cutOperator(s)
	if !ok {
		return Constraint{}, invalid("constraint %s has no operator: write KEY==VALUE or KEY!=VALUE", quote(s))
	}
	c, ok := attribute(key)
	if !ok {
		return Constraint{}, invalid("constraint %s looks at %s, which nodes do not have: use one of %s", quote(s), quote(key), constraintKeys)
	}
	c.Not, c.Value = not, value
	switch {
	case value == "":
		return Constraint{}, invalid("constraint %s has no value: write %s==VALUE or %s!=VALUE", quote(s), key, key)
	case strings.ContainsAny(value, "=\x00\n\r"):
		return Constraint{}, invalid("constraint %s has a value with characters that no node has: write %s==VALUE", quote(s), key)
	case c.Attr == AttrRole && !strings.EqualFold(value, "manager") && !strings.EqualFold(value, "worker"):
		return Constraint{}, invalid("constraint %s names no role: use manager or worker", quote(s))
	}
	return c, nil
}

func cutOperator(s string) (key, value string, not, ok bool) {
	eq, ne := strings.Index(s, "=="), strings.Index(s, "!=")
	switch {
	case eq >= 0 && (ne < 0 || eq < ne):
		key, value = s[:eq], s[eq+2:]
	case ne >= 0:
		key, value, not = s[:ne], s[ne+2:], true
	default:
		return "", "", false, false
	}
	return strings.TrimSpace(key), strings.TrimSpace(value), not, true
}

func attribute(key string) (Constraint, bool) {
	switch lower := strings.ToLower(key); lower {
	case "node.id":
		return Constraint{Attr: AttrNodeID}, true
	case "node.hostname":
		return Constraint{Attr: AttrHostname}, true
	case "node.role":
		return Constraint{Attr: AttrRole}, true
	case "node.platform.os":
		return Constraint{Attr: AttrOS}, true
	case "node.platform.arch":
		return Constraint{Attr: AttrArch}, true
	default:
		if strings.HasPrefix(lower, nodeLabelPrefix) && isLabelKey(key[len(nodeLabelPrefix):]) {
			return Constraint{Attr: AttrNodeLabel, Label: key[len(nodeLabelPrefix):]}, true
		}
		if strings.HasPrefix(lower, engineLabelPrefix) && isLabelKey(key[len(engineLabelPrefix):]) {
			return Constraint{Attr: AttrEngineLabel, Label: key[len(engineLabelPrefix):]}, true
		}
		return Constraint{}, false
	}
}

// isLabelKey reports whether s is a label key in a constraint, by the rule of Docker.
func isLabelKey(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return false
		}
	}
	return s != ""
}

// Preference parses the descriptor of a spread preference: a node label or an engine label.
func Preference(p *swarmv1.PlacementPreference) (Constraint, error) {
	d := p.GetSpread().GetSpreadDescriptor()
	c, ok := attribute(d)
	if !ok || c.Attr != AttrNodeLabel && c.Attr != AttrEngineLabel {
		return Constraint{}, invalid("placement preference %s cannot be spread over: use spread=node.labels.KEY or spread=engine.labels.KEY", quote(d))
	}
	return c, nil
}

// Arch returns the name that Go gives to a CPU architecture. s may be the name of the kernel (uname
// -m) or the name of Go.
func Arch(s string) string {
	switch s = strings.ToLower(s); s {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "armhf", "armel", "armv7l", "armv6l":
		return "arm"
	}
	return s
}

// PlatformMatches reports whether a node of platform have can run an image that was built for
// platform want. Fields of want that are not set match every node.
func PlatformMatches(have, want *swarmv1.Platform) bool {
	if want.GetOs() != "" && !strings.EqualFold(want.GetOs(), have.GetOs()) {
		return false
	}
	return want.GetArchitecture() == "" || Arch(want.GetArchitecture()) == Arch(have.GetArchitecture())
}

// checkConstraints refuses constraints that no node can satisfy together, because an attribute has
// one value only.
func checkConstraints(list []string) error {
	all, err := ParseConstraints(list)
	if err != nil {
		return err
	}
	for i, c := range all {
		for j, other := range all[:i] {
			if c.Key() != other.Key() || c.Not && other.Not {
				continue
			}
			if other.Not {
				c, other = other, c
			}
			if !c.Matches(other.Value) {
				return invalid("constraints %s and %s exclude each other, so no node can run the service: remove one", quote(list[j]), quote(list[i]))
			}
		}
	}
	return nil
}
