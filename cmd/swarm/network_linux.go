package main

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"swarm/overlay/bridge"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
)

// bridgeAttachment words a task's needs for the bridge. Overlay networks are refused: this build has none.
func bridgeAttachment(a worker.Attachment) (bridge.Attachment, error) {
	out := bridge.Attachment{TaskID: a.TaskID, Isolated: true}
	for _, use := range a.Networks {
		switch use.Driver() {
		case worker.DriverBridge:
			out.Isolated = false
		case worker.DriverNone:
		default:
			return out, fmt.Errorf("network %s: driver %q is not known here: %w", use.Network.GetSpec().GetName(), use.Driver(), errdefs.ErrInvalidArgument)
		}
	}
	for _, p := range a.Ports {
		port := bridge.Port{Published: uint16(p.PublishedPort), Target: uint16(p.TargetPort), Protocol: protocolName(p.Protocol)}
		if p.HostIp != "" {
			ip, err := netip.ParseAddr(p.HostIp)
			if err != nil {
				return out, fmt.Errorf("published port %d: host address: %w: %w", p.PublishedPort, err, errdefs.ErrInvalidArgument)
			}
			port.HostIP = ip
		}
		out.Ports = append(out.Ports, port)
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
func attached(a worker.Attachment, r bridge.Result) worker.Attached {
	out := worker.Attached{Netns: r.Netns}
	if r.Address.IsValid() {
		out.Addresses = []string{r.Address.String()}
	}
	for i, p := range r.Ports {
		port := a.Ports[i].CloneVT()
		port.PublishedPort = uint32(p.Published)
		out.Ports = append(out.Ports, port)
	}
	return out
}

// bridgeResult is the inverse of attached, for what an earlier process was answered.
func bridgeResult(held worker.Attached) (bridge.Result, error) {
	r := bridge.Result{Netns: held.Netns}
	if len(held.Addresses) > 0 {
		address, err := netip.ParsePrefix(held.Addresses[0])
		if err != nil {
			return r, err
		}
		r.Address = address
	}
	wanted, err := bridgeAttachment(worker.Attachment{Ports: held.Ports})
	r.Ports = wanted.Ports
	return r, err
}
