package publish

import (
	"fmt"
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// ByMesh reports whether the routing mesh publishes the port: every node answers at it. If not,
// only the nodes with a task of the service answer.
func ByMesh(p *swarmv1.PortConfig) bool { return p.GetPublishMode() != swarmv1.PortConfig_HOST }

// Address returns the address that the port is limited to, without an IPv4-in-IPv6 prefix. It
// returns the zero Addr if the port is published on every address.
func Address(p *swarmv1.PortConfig) netip.Addr {
	a, err := netip.ParseAddr(p.GetHostIp())
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// Name returns the published port as users write it, like "8080/tcp".
func Name(p *swarmv1.PortConfig) string {
	return fmt.Sprintf("%d/%s", p.GetPublishedPort(), Protocol(p.GetProtocol()))
}

// Protocol returns the protocol as users write it: "tcp", "udp" or "sctp".
func Protocol(p swarmv1.PortConfig_Protocol) string { return strings.ToLower(p.String()) }

// Same reports whether two ports have the same protocol, published port and address. It ignores the
// mode, and the port of the container.
func Same(a, b *swarmv1.PortConfig) bool {
	return a.GetProtocol() == b.GetProtocol() && a.GetPublishedPort() == b.GetPublishedPort() && Address(a) == Address(b)
}
