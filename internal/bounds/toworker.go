package bounds

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxPeers is the most managers, or nodes with an image, that a node accepts in one list.
	MaxPeers = 1024
	// MaxBundle is the largest bundle of root certificates, in bytes.
	MaxBundle = 256 << 10

	minHeartbeat, maxHeartbeat = 100 * time.Millisecond, time.Minute
	maxLease                   = time.Hour

	maxKey      = 1 << 10 // the length of an encryption key
	maxData     = 1 << 20 // the length of a secret or config
	maxVNI      = 1<<24 - 1
	maxAttached = 1 << 10 // the number of networks of an object, addresses of a network or ports of a service
)

// Assignments returns the changes that a worker may apply: their ids can be file names, and their
// addresses, ranges and ports are valid. dropped has one line for each dropped change, with the
// reason.
func Assignments(m *swarmv1.Assignments) (clean *swarmv1.Assignments, dropped []string) {
	clean = &swarmv1.Assignments{Sequence: m.GetSequence(), Complete: m.GetComplete(), Index: m.GetIndex()}
	for _, c := range m.GetChanges() {
		switch change := c.GetChange().(type) {
		case *swarmv1.AssignmentChange_Put:
			if err := checkAssignment(change.Put); err != nil {
				dropped = append(dropped, err.Error())
				continue
			}
		case *swarmv1.AssignmentChange_Remove:
			if change.Remove == nil {
				dropped = append(dropped, "a change to remove an object names no object")
				continue
			}
		default:
			continue // from a newer version of the managers
		}
		clean.Changes = append(clean.Changes, c)
	}
	return clean, dropped
}

func checkAssignment(a *swarmv1.Assignment) error {
	switch o := a.GetObject().(type) {
	case *swarmv1.Assignment_Task:
		return checkTask(o.Task)
	case *swarmv1.Assignment_Revision:
		return ident.CheckKey("service", o.Revision.GetServiceId())
	case *swarmv1.Assignment_DataVersion:
		if len(o.DataVersion.GetData()) > maxData {
			return invalid("a secret or config has %d bytes", len(o.DataVersion.GetData()))
		}
		return ident.CheckKey("secret or config", o.DataVersion.GetObjectId())
	case *swarmv1.Assignment_Endpoint:
		return checkEndpoint(o.Endpoint)
	case *swarmv1.Assignment_Key:
		if len(o.Key.GetKey()) > maxKey {
			return invalid("an encryption key has %d bytes", len(o.Key.GetKey()))
		}
		return ident.CheckKey("subsystem", o.Key.GetSubsystem())
	case *swarmv1.Assignment_Network:
		return checkNetwork(o.Network)
	case *swarmv1.Assignment_Image:
		if !IsDigest(o.Image.GetDigest()) {
			return invalid("image %q has no valid digest", Text(o.Image.GetName(), maxStep))
		}
		return ident.CheckKey("image", o.Image.GetId())
	case *swarmv1.Assignment_Peering:
		return checkPeering(o.Peering)
	case *swarmv1.Assignment_Routing:
		return checkRouting(o.Routing)
	case *swarmv1.Assignment_Backend:
		return checkBackend(o.Backend)
	case *swarmv1.Assignment_Volume:
		return spec.Volume(o.Volume)
	}
	return nil // from a newer version of the managers: it has no effect
}

func checkTask(t *swarmv1.Task) error {
	if err := ident.CheckKey("task", t.GetId()); err != nil {
		return err
	}
	if err := ident.CheckKey("service", t.GetServiceId()); err != nil {
		return fmt.Errorf("task %s: %w", t.GetId(), err)
	}
	if _, known := swarmv1.TaskState_name[int32(t.GetDesiredState())]; !known {
		return invalid("task %s is to be of state %d, which is not known", t.GetId(), t.GetDesiredState())
	}
	return checkAttachments("task "+t.GetId(), t.GetNetworks())
}

func checkAttachments(whose string, all []*swarmv1.NetworkAttachment) error {
	if len(all) > maxAttached {
		return invalid("%s is on %d networks", whose, len(all))
	}
	for _, n := range all {
		if err := ident.CheckKey("network", n.GetNetworkId()); err != nil {
			return fmt.Errorf("%s: %w", whose, err)
		}
		if err := checkPrefixes(whose, n.GetAddresses()); err != nil {
			return err
		}
	}
	return nil
}

func checkPrefixes(whose string, all []string) error {
	if len(all) > maxAttached {
		return invalid("%s has %d addresses", whose, len(all))
	}
	for _, s := range all {
		if _, err := netip.ParsePrefix(s); err != nil {
			return invalid("%s: %q is not an address in prefix notation", whose, Text(s, maxWord))
		}
	}
	return nil
}

func checkEndpoint(e *swarmv1.Endpoint) error {
	if err := ident.CheckKey("service", e.GetServiceId()); err != nil {
		return err
	}
	whose := "the endpoint of service " + e.GetServiceId()
	if len(e.GetPorts()) > maxAttached || len(e.GetVirtualIps()) > maxAttached {
		return invalid("%s has %d ports and %d addresses", whose, len(e.GetPorts()), len(e.GetVirtualIps()))
	}
	for _, p := range e.GetPorts() {
		ok := isPort(p.GetTargetPort()) && (p.GetPublishedPort() == 0 || isPort(p.GetPublishedPort())) && p.GetMeshPort() < 1<<16 &&
			(p.GetHostIp() == "" || isAddr(p.GetHostIp()))
		if !ok {
			return invalid("%s has an invalid port: published %d, target %d", whose, p.GetPublishedPort(), p.GetTargetPort())
		}
	}
	for _, v := range e.GetVirtualIps() {
		if err := checkPrefixes(whose, []string{v.GetAddr()}); err != nil {
			return err
		}
	}
	return nil
}

func checkNetwork(n *swarmv1.Network) error {
	if err := ident.CheckKey("network", n.GetId()); err != nil {
		return err
	}
	if n.GetVni() > maxVNI || len(n.GetIpam().GetConfigs()) > maxAttached {
		return invalid("network %s has identifier %d and %d subnets", n.GetId(), n.GetVni(), len(n.GetIpam().GetConfigs()))
	}
	for _, c := range n.GetIpam().GetConfigs() {
		if err := checkPrefixes("network "+n.GetId(), []string{c.GetSubnet()}); err != nil {
			return err
		}
		if c.GetGateway() != "" && !isAddr(c.GetGateway()) {
			return invalid("network %s: gateway %q is not an address", n.GetId(), Text(c.GetGateway(), maxWord))
		}
	}
	return nil
}

func checkPeering(p *swarmv1.Peering) error {
	if err := ident.CheckKey("node", p.GetNodeId()); err != nil {
		return err
	}
	for _, s := range slices.Concat([]string{p.GetAddr()}, p.GetOthers()) {
		if s != "" && !isHost(s) {
			return invalid("node %s: %q is not an address", p.GetNodeId(), Text(s, maxWord))
		}
	}
	if p.GetPort() > math.MaxUint16 {
		return invalid("node %s: %d is not a port", p.GetNodeId(), p.GetPort())
	}
	return checkPrefixes("node "+p.GetNodeId(), p.GetMeshAddresses())
}

func checkRouting(r *swarmv1.Routing) error {
	if err := ident.CheckKey("service", r.GetServiceId()); err != nil {
		return err
	}
	if r.GetEndpoint() != nil {
		if err := checkEndpoint(r.GetEndpoint()); err != nil {
			return err
		}
	}
	return checkAttachments("service "+r.GetServiceId(), r.GetNetworks())
}

func checkBackend(b *swarmv1.Backend) error {
	for _, id := range []struct{ kind, value string }{{"task", b.GetTaskId()}, {"service", b.GetServiceId()}, {"node", b.GetNodeId()}} {
		if err := ident.CheckKey(id.kind, id.value); err != nil {
			return err
		}
	}
	return checkAttachments("task "+b.GetTaskId(), b.GetNetworks())
}

// Peers returns the first MaxPeers peers with a valid id and address.
func Peers(in []*swarmv1.Peer) []*swarmv1.Peer {
	return pick(in, MaxPeers, func(p *swarmv1.Peer) (*swarmv1.Peer, bool) {
		ok := ident.IsKey(p.GetNodeId()) && isHost(p.GetAddr()) && isPort(p.GetPort())
		return &swarmv1.Peer{NodeId: p.GetNodeId(), Addr: p.GetAddr(), Port: p.GetPort()}, ok
	})
}

// isHost reports whether s is the address or the name of a host.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return ident.CheckHostAddress("address", s) == nil
	}
	return ident.CheckHostname(s) == nil
}

// Lease returns how long single-writer tasks may run without a manager: d between 100 ms and one
// hour, or fallback if d is not set.
func Lease(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return max(minHeartbeat, min(d, maxLease))
}

// Heartbeat returns the period of heartbeats: d between 100 ms and one minute, or fallback if d is
// not set.
func Heartbeat(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return max(minHeartbeat, min(d, maxHeartbeat))
}
