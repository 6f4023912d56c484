package spec

import (
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

const maxPort = 65535

// bound is what of a host a published port takes.
type bound struct {
	protocol swarmv1.PortConfig_Protocol
	port     uint32
	host     bool
}

func checkEndpoint(e *swarmv1.EndpointSpec) error {
	if _, ok := swarmv1.EndpointSpec_Mode_name[int32(e.GetMode())]; !ok {
		return invalid("endpoint mode %d is not known: use vip or dnsrr", e.GetMode())
	}
	seen := make(map[bound]bool, len(e.GetPorts()))
	for _, p := range e.GetPorts() {
		if err := checkPort(p); err != nil {
			return err
		}
		if p.GetPublishedPort() == 0 {
			continue
		}
		b := bound{p.GetProtocol(), p.GetPublishedPort(), p.GetPublishMode() == swarmv1.PortConfig_HOST}
		if seen[b] {
			return invalid("port %d/%s is published twice: publish each port once", b.port, strings.ToLower(b.protocol.String()))
		}
		seen[b] = true
		other := b
		other.host = !b.host
		if seen[other] {
			return invalid("port %d/%s is published through the mesh and on the host: publish it in one mode", b.port, strings.ToLower(b.protocol.String()))
		}
	}
	return nil
}

func checkPort(p *swarmv1.PortConfig) error {
	if _, ok := swarmv1.PortConfig_Protocol_name[int32(p.GetProtocol())]; !ok {
		return invalid("protocol %d of port %d is not known: use tcp, udp or sctp", p.GetProtocol(), p.GetTargetPort())
	}
	if _, ok := swarmv1.PortConfig_PublishMode_name[int32(p.GetPublishMode())]; !ok {
		return invalid("publish mode %d of port %s is not known: use ingress, host or local", p.GetPublishMode(), portName(p))
	}
	if t := p.GetTargetPort(); t < 1 || t > maxPort {
		return invalid("target port %d is out of range: use 1 to %d", t, maxPort)
	}
	if pub := p.GetPublishedPort(); pub > maxPort {
		return invalid("published port %d is out of range: use 1 to %d, or none to have one chosen", pub, maxPort)
	}
	if ip := p.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return invalid("address %s of port %s is not an IP address: write it like 192.0.2.7", quote(ip), portName(p))
		}
	}
	return nil
}
