package spec

import (
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Attribute is what of a node a constraint looks at.
type Attribute uint8

const (
	// AttrNodeID is the node's id; it and the hostname differ from node to node, the others are shared by many.
	AttrNodeID Attribute = iota
	AttrHostname
	AttrRole
	AttrOS
	AttrArch
	AttrNodeLabel
	AttrEngineLabel
)

// Constraint is one placement constraint, read.
type Constraint struct {
	Attr Attribute
	// Label is the label's key for AttrNodeLabel and AttrEngineLabel.
	Label string
	// Not says that the operator was != .
	Not   bool
	Value string
}

const (
	nodeLabelPrefix   = "node.labels."
	engineLabelPrefix = "engine.labels."
	constraintKeys    = "node.id, node.hostname, node.role, node.platform.os, node.platform.arch, node.labels.KEY"
)

// String writes the constraint as ParseConstraint reads it.
func (c Constraint) String() string {
	op := "=="
	if c.Not {
		op = "!="
	}
	return c.Key() + op + c.Value
}

// Key is the left side of the constraint.
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

// PerNode says that the constraint tells single nodes apart, so that nodes which are otherwise alike differ in it.
func (c Constraint) PerNode() bool { return c.Attr == AttrNodeID || c.Attr == AttrHostname }

// Matches compares what the node has with what is asked for: case-insensitive, as in Docker. A label that the node does
// not have has the value "".
func (c Constraint) Matches(have string) bool {
	if c.Attr == AttrArch {
		return (Arch(have) == Arch(c.Value)) != c.Not
	}
	return strings.EqualFold(have, c.Value) != c.Not
}

// ParseConstraints reads the constraints of a service; all of them must hold.
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

// ParseConstraint reads "KEY==VALUE" or "KEY!=VALUE".
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
		if strings.HasPrefix(lower, nodeLabelPrefix) && checkLabelKey(key[len(nodeLabelPrefix):]) {
			return Constraint{Attr: AttrNodeLabel, Label: key[len(nodeLabelPrefix):]}, true
		}
		if strings.HasPrefix(lower, engineLabelPrefix) && checkLabelKey(key[len(engineLabelPrefix):]) {
			return Constraint{Attr: AttrEngineLabel, Label: key[len(engineLabelPrefix):]}, true
		}
		return Constraint{}, false
	}
}

// checkLabelKey is Docker's rule for the key of a label in a constraint.
func checkLabelKey(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
		default:
			return false
		}
	}
	return s != ""
}

// Preference reads the descriptor of a spread preference: a node or engine label.
func Preference(p *swarmv1.PlacementPreference) (Constraint, error) {
	d := p.GetSpread().GetSpreadDescriptor()
	c, ok := attribute(d)
	if !ok || c.Attr != AttrNodeLabel && c.Attr != AttrEngineLabel {
		return Constraint{}, invalid("placement preference %s cannot be spread over: use spread=node.labels.KEY or spread=engine.labels.KEY", quote(d))
	}
	return c, nil
}

// Arch is Go's name of a CPU architecture that the kernel (uname -m) names otherwise.
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

// Runs says whether a node of platform have runs what was built for want; fields that are not set fit everything.
func Runs(have, want *swarmv1.Platform) bool {
	if want.GetOs() != "" && !strings.EqualFold(want.GetOs(), have.GetOs()) {
		return false
	}
	return want.GetArchitecture() == "" || Arch(want.GetArchitecture()) == Arch(have.GetArchitecture())
}
