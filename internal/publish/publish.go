package publish

import (
	"fmt"
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// FirstChosen and LastChosen bound the range from which a published port is chosen if the service
// names none. The range is that of Docker. See the package comment for who chooses.
const FirstChosen, LastChosen = 30000, 32767

// ByMesh reports whether the routing mesh publishes the port: its mode is INGRESS or LOCAL.
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

// Serves reports whether a node may report that it publishes the port got for a task whose service
// has the port want. want must be in HOST mode. got must be the same port, or a port between
// FirstChosen and LastChosen if want names none.
func Serves(got, want *swarmv1.PortConfig) bool {
	n := got.GetPublishedPort()
	number := n == want.GetPublishedPort() || want.GetPublishedPort() == 0 && n >= FirstChosen && n <= LastChosen
	return number && !ByMesh(want) && got.GetTargetPort() == want.GetTargetPort() &&
		got.GetProtocol() == want.GetProtocol() && got.GetHostIp() == want.GetHostIp()
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
