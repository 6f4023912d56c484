package spec

import (
	"net/netip"

	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

const maxPort = 65535

func checkEndpoint(e *swarmv1.EndpointSpec) error {
	if _, ok := swarmv1.EndpointSpec_Mode_name[int32(e.GetMode())]; !ok {
		return invalid("endpoint mode %d is not known: use vip or dnsrr", e.GetMode())
	}
	for i, p := range e.GetPorts() {
		if err := checkPort(p); err != nil {
			return err
		}
		if p.GetPublishedPort() == 0 {
			continue
		}
		for _, o := range e.GetPorts()[:i] {
			if err := checkPortPair(p, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkPortPair refuses two ports if a host could serve only one of them.
func checkPortPair(p, o *swarmv1.PortConfig) error {
	if p.GetPublishedPort() != o.GetPublishedPort() || p.GetProtocol() != o.GetProtocol() {
		return nil
	}
	name := publish.Name(p)
	one, another := publish.Address(p), publish.Address(o)
	switch {
	case publish.ByMesh(p) != publish.ByMesh(o):
		return invalid("port %s is published through the mesh and on the host: publish it in one mode", name)
	case !one.IsValid() || !another.IsValid() || one == another:
		return invalid("port %s is published twice: publish each port once", name)
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
