//go:build linux

package plane

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"swarm/overlay/bridge"
	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/vip"
	swarmv1 "swarm/proto/swarm/v1"
)

// kernel is a fake of all packages that the plane calls. It records one line per call.
type kernel struct {
	mu    sync.Mutex // guards the fields below
	lines []string
	// blocked are the ports of the last call of BlockPeerPorts.
	blocked []uint16
	fail    map[string]error // by the first word of a line
}

func (k *kernel) note(format string, args ...any) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	k.lines = append(k.lines, line)
	return k.fail[strings.Fields(line)[0]]
}

func (k *kernel) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := k.lines
	k.lines = nil
	return lines
}

type fakeBridge struct{ *kernel }

func (b fakeBridge) Attach(_ context.Context, a bridge.Attachment) (bridge.Result, error) {
	return bridge.Result{Netns: "/ns/" + a.TaskID, Address: netip.MustParsePrefix("172.30.0.9/16")}, b.note("attach-bridge %s", a.TaskID)
}

func (b fakeBridge) Detach(_ context.Context, id string) error { return b.note("detach-bridge %s", id) }

func (b fakeBridge) Restore(_ context.Context, keep []bridge.Existing) error {
	return b.note("restore-bridge %d", len(keep))
}

func (b fakeBridge) BlockPeerPorts(_ context.Context, others []uint16) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked = others
	return nil
}

type fakeFabric struct{ *kernel }

func (f fakeFabric) Attach(_ context.Context, l fabric.Attachment) error {
	return f.note("attach-fabric %s %s %s %v", l.TaskID, l.Network.ID, l.Interface, l.Addresses)
}

func (f fakeFabric) Detach(_ context.Context, id string) error { return f.note("detach-fabric %s", id) }

func (f fakeFabric) Sync(_ context.Context, network string, e []fabric.Endpoint) error {
	return f.note("sync-members %s %v", network, e)
}

func (f fakeFabric) Update(_ context.Context, network string, placed []fabric.Endpoint, gone []string) error {
	return f.note("update-endpoints %s %v %v", network, placed, gone)
}

func (f fakeFabric) Restore(_ context.Context, keep []fabric.Attachment) error {
	return f.note("restore-fabric %d", len(keep))
}

type fakeBalancer struct{ *kernel }

func (b fakeBalancer) Program(_ context.Context, netns string, want []vip.Service) error {
	return b.note("program %s %v", netns, want)
}

func (b fakeBalancer) Update(_ context.Context, netns string, changed []vip.Service, gone []netip.Addr) error {
	return b.note("update %s %v %v", netns, changed, gone)
}

func (b fakeBalancer) Reset(_ context.Context, netns string, gone []netip.Addr) error {
	return b.note("reset %s %v", netns, gone)
}

func (b fakeBalancer) Connections(context.Context, string) (map[string]vip.Connections, error) {
	return nil, nil
}
func (b fakeBalancer) Forget(netns string) error { return b.note("forget %s", netns) }

type fakeNames struct{ *kernel }

func (n fakeNames) SetNetwork(r *swarmv1.ResolverNetwork) { _ = n.note("set-network %s", r.Name) }
func (n fakeNames) RemoveNetwork(id string)               { _ = n.note("remove-network %s", id) }
func (n fakeNames) SetService(s *swarmv1.ResolverService) {
	line := "set-service " + s.Name
	for _, t := range s.Tasks {
		line += fmt.Sprintf(" %s=%t", strings.Join(t.Addresses, ","), t.Ready)
	}
	_ = n.note("%s", line)
}

func (n fakeNames) RemoveService(network, id string) { _ = n.note("remove-service %s %s", network, id) }

func (n fakeNames) Serve(_ context.Context, c *swarmv1.ResolverContainer) error {
	return n.note("serve %s %v", c.Id, c.NetworkIds)
}

func (n fakeNames) SetContainer(c *swarmv1.ResolverContainer) { _ = n.note("set-container %s", c.Id) }

func (n fakeNames) RemoveContainer(id string)     { _ = n.note("remove-container %s", id) }
func (n fakeNames) Applied(context.Context) error { return n.note("applied") }

type fakeMesh struct{ *kernel }

func (m fakeMesh) Sync(_ context.Context, s mesh.State) ([]mesh.Conflict, error) {
	line := "mesh"
	for _, p := range s.Ports {
		line += fmt.Sprintf(" %s>%d %v", p.Port, p.Target, p.Backends)
		if len(p.Standby) > 0 {
			line += fmt.Sprintf(" or %v", p.Standby)
		}
	}
	return nil, m.note("%s", line)
}

func (m fakeMesh) Reset(_ context.Context, gone []netip.Addr) error {
	return m.note("mesh reset %v", gone)
}
