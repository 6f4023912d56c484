package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Subnets are the subnets of a network: at most one of each family, IPv4 first.
type Subnets []Subnet

// ParseSubnets parses the subnets of a network. It returns an error if one is not valid, or if two
// are of the same family.
func ParseSubnets(o *swarmv1.IPAMOptions) (Subnets, error) {
	var p Subnets
	for _, c := range o.GetConfigs() {
		s, err := ParseSubnet(c)
		if err != nil {
			return nil, err
		}
		for _, other := range p {
			if other.Family() == s.Family() {
				return nil, fmt.Errorf("subnets %s and %s are of the same family", other.prefix, s.prefix)
			}
		}
		if p = append(p, s); len(p) == 2 && p[1].v4() {
			p[0], p[1] = p[1], p[0]
		}
	}
	return p, nil
}

// Containing returns the subnet that contains the address, or false.
func (p Subnets) Containing(a netip.Addr) (Subnet, bool) {
	for _, s := range p {
		if s.prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// String returns the subnets, separated by commas.
func (p Subnets) String() string {
	texts := make([]string, len(p))
	for i, s := range p {
		texts[i] = s.prefix.String()
	}
	return strings.Join(texts, ", ")
}

// ParseAddr parses an address with or without a prefix length.
func ParseAddr(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(text)
}

// FullMessage returns the text that tells a user that a subnet of the network has no free address.
// used is the number of its addresses in use.
func FullMessage(network string, s Subnet, used uint64) string {
	return fmt.Sprintf("network %s: no free address in %s: %d of %d in use", network, s.prefix, used, s.RangeSize())
}

// These are the prefixes of the keys of claims, and of the owners in claims.
const (
	addrKey   = "addr/"
	cursorKey = "next/"

	OwnerTask    = "task/"
	OwnerService = "service/"
	OwnerNode    = "node/"
)

// Key returns the key of the claim of an address.
func Key(network string, a netip.Addr) string { return addrKey + network + "/" + a.String() }

// KeyPrefix returns the common prefix of the keys of all claims of a network's addresses.
func KeyPrefix(network string) string { return addrKey + network + "/" }

// OwnerID returns the id in the owner of a claim, whatever its kind.
func OwnerID(owner string) string {
	if _, id, ok := strings.Cut(owner, "/"); ok {
		return id
	}
	return owner
}

// NodeOwner returns the id of the node that owns a claim, or false if the owner is not a node.
func NodeOwner(owner string) (id string, ok bool) { return strings.CutPrefix(owner, OwnerNode) }

// ParseKey parses a key that Key has made.
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

// CursorKey returns the key of the claim that holds a cursor. The owner in that claim is the last
// allocated address of the network and family.
func CursorKey(network string, s Subnet) string { return cursorKey + network + "/" + s.Family() }

// ParseCursorKey parses a key that CursorKey has made.
func ParseCursorKey(key string) (network, family string, ok bool) {
	rest, ok := strings.CutPrefix(key, cursorKey)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}
