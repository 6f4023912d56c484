//go:build linux

package dataplane

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"swarm/internal/publish"
	"swarm/overlay/bridge"
	"swarm/overlay/plane"
	"swarm/overlay/resolve"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// attacher is the part of plane.Plane that taskNetwork uses.
type attacher interface {
	Attach(ctx context.Context, a plane.Attachment) (bridge.Result, error)
	Detach(ctx context.Context, taskID string) error
	Restore(ctx context.Context, keep []plane.Existing) error
}

// taskNetwork implements engine.Network with the plane.
type taskNetwork struct{ plane attacher }

// Attach implements engine.Network.
func (n taskNetwork) Attach(ctx context.Context, a engine.Attachment) (engine.Attached, error) {
	wanted, err := planeAttachment(a)
	if err != nil {
		return engine.Attached{}, err
	}
	got, err := n.plane.Attach(ctx, wanted)
	if err != nil {
		return engine.Attached{}, err
	}
	out := attached(a, got)
	if len(wanted.Overlays) > 0 {
		out.Local, out.Addresses, out.Nameservers = out.Addresses, nil, []string{resolve.Address}
		for _, o := range wanted.Overlays {
			for _, p := range o.Addresses {
				out.Addresses = append(out.Addresses, p.String())
			}
		}
	}
	return out, nil
}

// Detach implements engine.Network.
func (n taskNetwork) Detach(ctx context.Context, taskID string) error {
	return n.plane.Detach(ctx, taskID)
}

// Restore implements engine.Network.
func (n taskNetwork) Restore(ctx context.Context, keep []engine.Attachment) error {
	existing := make([]plane.Existing, 0, len(keep))
	for _, a := range keep {
		e, err := planeExisting(a)
		if err != nil {
			return fmt.Errorf("task %s: %w", a.TaskID, err)
		}
		existing = append(existing, e)
	}
	return n.plane.Restore(ctx, existing)
}

// planeAttachment translates the attachment of a task for package plane. A task on overlay networks
// also gets an interface on the bridge network, for outgoing connections and for published ports.
// If all its overlay networks are internal, that interface has no egress.
func planeAttachment(a engine.Attachment) (plane.Attachment, error) {
	out := plane.Attachment{TaskID: a.TaskID, NoEgress: true, SearchFirst: a.SearchFirst}
	for _, use := range a.Networks {
		spec := use.Network.GetSpec()
		switch use.Driver() {
		case engine.DriverOverlay:
			addresses, err := prefixes(use.Use.GetAddresses())
			if err != nil {
				return out, fmt.Errorf("network %s: %w", spec.GetName(), err)
			}
			out.Overlays = append(out.Overlays, plane.Overlay{Network: use.Network, Addresses: addresses})
			out.OnBridge = true
			out.NoEgress = out.NoEgress && spec.GetInternal()
			out.HostAccess = out.HostAccess || spec.GetHostAccess()
		case engine.DriverBridge:
			out.OnBridge, out.NoEgress = true, false
		case engine.DriverNone:
		default:
			return out, fmt.Errorf("network %s: driver %q is not known here: %w", spec.GetName(), use.Driver(), errdefs.ErrInvalidArgument)
		}
	}
	for _, u := range a.Upstreams {
		// With its own address as an upstream, the name server would ask itself.
		if addr, err := netip.ParseAddr(u); err == nil && u != resolve.Address {
			out.Upstreams = append(out.Upstreams, addr)
		}
	}
	var err error
	out.Ports, err = bridgePorts(a.Ports)
	return out, err
}

// planeExisting translates the attachment of a task that an earlier process made. In the records of
// former builds Local is empty, and Addresses has the addresses on the bridge network.
func planeExisting(a engine.Attachment) (plane.Existing, error) {
	wanted, err := planeAttachment(a)
	if err != nil {
		return plane.Existing{}, err
	}
	local := a.Held.Local
	if local == nil {
		local = a.Held.Addresses
	}
	result, err := bridgeResult(a.Held.Netns, local, a.Held.Ports)
	return plane.Existing{Attachment: wanted, Result: result}, err
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		out = append(out, p)
	}
	return out, nil
}

// bridgePorts translates published ports for the bridge network.
func bridgePorts(ports []*swarmv1.PortConfig) ([]bridge.Port, error) {
	var out []bridge.Port
	for _, p := range ports {
		port := bridge.Port{Published: uint16(p.PublishedPort), Target: uint16(p.TargetPort), Protocol: publish.Protocol(p.Protocol)}
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

// attached translates the bridge's answer for the worker. The bridge keeps the order of the ports.
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

// bridgeResult is the inverse of attached.
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
