package main

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"swarm/overlay/bridge"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// bridgePorts words ports for the bridge.
func bridgePorts(ports []*swarmv1.PortConfig) ([]bridge.Port, error) {
	var out []bridge.Port
	for _, p := range ports {
		port := bridge.Port{Published: uint16(p.PublishedPort), Target: uint16(p.TargetPort), Protocol: protocolName(p.Protocol)}
		if p.HostIp != "" {
			ip, err := netip.ParseAddr(p.HostIp)
			if err != nil {
				return nil, fmt.Errorf("published port %d: host address: %w: %w", p.PublishedPort, err, errdefs.ErrInvalidArgument)
			}
			port.HostIP = ip
		}
		out = append(out, port)
	}
	return out, nil
}

func protocolName(p swarmv1.PortConfig_Protocol) string {
	switch p {
	case swarmv1.PortConfig_UDP:
		return "udp"
	case swarmv1.PortConfig_SCTP:
		return "sctp"
	default:
		return "tcp"
	}
}

// attached words the bridge's answer for the worker. The bridge keeps the order of the ports.
func attached(a engine.Attachment, r bridge.Result) engine.Attached {
	out := engine.Attached{Netns: r.Netns}
	for _, p := range []netip.Prefix{r.Address, r.Address6} {
		if p.IsValid() {
			out.Addresses = append(out.Addresses, p.String())
		}
	}
	for i, p := range r.Ports {
		port := a.Ports[i].CloneVT()
		port.PublishedPort = uint32(p.Published)
		out.Ports = append(out.Ports, port)
	}
	return out
}

// bridgeResult is the inverse of attached, for what an earlier process was answered.
func bridgeResult(netns string, addresses []string, ports []*swarmv1.PortConfig) (bridge.Result, error) {
	r := bridge.Result{Netns: netns}
	for _, text := range addresses {
		address, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return r, err
		case address.Addr().Is4():
			r.Address = address
		default:
			r.Address6 = address
		}
	}
	var err error
	r.Ports, err = bridgePorts(ports)
	return r, err
}
