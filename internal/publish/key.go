package publish

import (
	"net/netip"
	"strconv"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// KeyPrefix begins the key of every claim of a port.
	KeyPrefix = "port/"
	// meshID takes the place of the node id in the key of a port that the mesh publishes.
	meshID = "ingress"
)

// Key is the key of the claim of a port.
type Key struct {
	// NodeID is the node that publishes the port. It is empty if the mesh publishes the port.
	NodeID   string
	Protocol swarmv1.PortConfig_Protocol
	// Port is from 1 to 65535.
	Port uint32
	// Address is the only address that the port is published on. It is the zero Addr if the port is
	// published on every address.
	Address netip.Addr
}

// MeshKey returns the key of a port that the mesh publishes on every address.
func MeshKey(protocol swarmv1.PortConfig_Protocol, port uint32) Key {
	return Key{Protocol: protocol, Port: port}
}

// NodeKey returns the key of a port that one node publishes, on the address that p names.
func NodeKey(nodeID string, p *swarmv1.PortConfig) Key {
	return Key{NodeID: nodeID, Protocol: p.GetProtocol(), Port: p.GetPublishedPort(), Address: Address(p)}
}

// At returns the key with another address. The zero Addr means every address.
func (k Key) At(a netip.Addr) Key {
	k.Address = a
	return k
}

// On returns the key with another node. An empty id means the mesh.
func (k Key) On(nodeID string) Key {
	k.NodeID = nodeID
	return k
}

// String returns the key as it is stored.
func (k Key) String() string {
	at := k.NodeID
	if at == "" {
		at = meshID
	}
	return KeyPrefix + at + "/" + k.Suffix()
}

// Suffix returns the part of the stored key that begins with the protocol: "tcp/8080", or
// "tcp/8080/192.0.2.7" for a port on one address.
func (k Key) Suffix() string {
	s := Protocol(k.Protocol) + "/" + strconv.FormatUint(uint64(k.Port), 10)
	if k.Address.IsValid() {
		s += "/" + k.Address.String()
	}
	return s
}

// AddressPrefix returns the string that begins the stored keys of the same port on single
// addresses.
func (k Key) AddressPrefix() string { return k.At(netip.Addr{}).String() + "/" }

// ParseKey parses the key of a claim. It returns false if the claim is not one of a port.
func ParseKey(s string) (Key, bool) {
	rest, ok := strings.CutPrefix(s, KeyPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 3 || len(parts) > 4 || parts[0] == "" {
		return Key{}, false
	}
	protocol, known := swarmv1.PortConfig_Protocol_value[strings.ToUpper(parts[1])]
	port, err := strconv.ParseUint(parts[2], 10, 16)
	if !known || err != nil || port == 0 {
		return Key{}, false
	}
	k := Key{NodeID: parts[0], Protocol: swarmv1.PortConfig_Protocol(protocol), Port: uint32(port)}
	if k.NodeID == meshID {
		k.NodeID = ""
	}
	if len(parts) == 4 {
		if k.Address, err = netip.ParseAddr(parts[3]); err != nil {
			return Key{}, false
		}
	}
	return k, k.String() == s
}

// Conflicts reports whether both keys name the same port of a host. This is so if they have the
// same protocol and number, an address in common, and a node in common. A key of the mesh has all
// nodes, and a key without an address has all addresses.
func (k Key) Conflicts(o Key) bool {
	node := k.NodeID == o.NodeID || k.NodeID == "" || o.NodeID == ""
	address := k.Address == o.Address || !k.Address.IsValid() || !o.Address.IsValid()
	return k.Protocol == o.Protocol && k.Port == o.Port && address && node
}
