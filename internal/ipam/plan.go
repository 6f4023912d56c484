package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Plan is the subnets of a network: at most one of each family, IPv4 first.
type Plan []Subnet

// Read reads the subnets of a network.
func Read(o *swarmv1.IPAMOptions) (Plan, error) {
	var p Plan
	for _, c := range o.GetConfigs() {
		s, err := Parse(c)
		if err != nil {
			return nil, err
		}
		for _, other := range p {
			if other.Family() == s.Family() {
				return nil, fmt.Errorf("subnets %s and %s are of one family", other.prefix, s.prefix)
			}
		}
		if p = append(p, s); len(p) == 2 && p[1].v4() {
			p[0], p[1] = p[1], p[0]
		}
	}
	return p, nil
}

// Of is the subnet that the address belongs to.
func (p Plan) Of(a netip.Addr) (Subnet, bool) {
	for _, s := range p {
		if s.prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// String lists the subnets.
func (p Plan) String() string {
	texts := make([]string, len(p))
	for i, s := range p {
		texts[i] = s.prefix.String()
	}
	return strings.Join(texts, ", ")
}

// Addr reads an address with or without its prefix length.
func Addr(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(text)
}

// Full says that a subnet has no address left, with the numbers.
func Full(network string, s Subnet, used uint64) string {
	return fmt.Sprintf("network %s: no free address in %s: %d of %d in use", network, s.prefix, used, s.Total())
}

// Keys of the rows that hold addresses, and the kinds of their owners.
const (
	addrKey   = "addr/"
	cursorKey = "next/"

	OwnerTask    = "task/"
	OwnerService = "service/"
	OwnerNode    = "node/"
)

// Key is the key of the claim of an address.
func Key(network string, a netip.Addr) string { return addrKey + network + "/" + a.String() }

// Prefix begins the keys of all claims of a network's addresses.
func Prefix(network string) string { return addrKey + network + "/" }

// OwnerID is the id of a claim's owner, of whatever kind.
func OwnerID(owner string) string {
	if _, id, ok := strings.Cut(owner, "/"); ok {
		return id
	}
	return owner
}

// NodeOwner is the id of a claim's owner when it is a node.
func NodeOwner(owner string) (id string, ok bool) { return strings.CutPrefix(owner, OwnerNode) }

// ParseKey reads what Key wrote.
func ParseKey(key string) (network string, a netip.Addr, ok bool) {
	rest, ok := strings.CutPrefix(key, addrKey)
	if !ok {
		return "", netip.Addr{}, false
	}
	network, text, ok := strings.Cut(rest, "/")
	if !ok {
		return "", netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	return network, a, err == nil
}

// CursorKey is the key of the row that says which address of the network's family was given last: its owner.
func CursorKey(network string, s Subnet) string { return cursorKey + network + "/" + s.Family() }

// ParseCursorKey reads what CursorKey wrote.
func ParseCursorKey(key string) (network, family string, ok bool) {
	rest, ok := strings.CutPrefix(key, cursorKey)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}
