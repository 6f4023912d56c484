//go:build linux

package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"swarm/overlay/fabric"
	swarmv1 "swarm/proto/swarm/v1"
)

// memoryFabric is a fake fabric that stores what it was sent, and sometimes fails.
type memoryFabric struct {
	fakeFabric
	rng       *rand.Rand
	endpoints map[string]map[string]fabric.Endpoint // by network and task
	synced    int
}

func (l *memoryFabric) Sync(_ context.Context, network string, all []fabric.Endpoint) error {
	l.synced++
	l.endpoints[network] = map[string]fabric.Endpoint{}
	for _, e := range all {
		l.endpoints[network][e.TaskID] = e
	}
	return nil
}

func (l *memoryFabric) Update(_ context.Context, network string, placed []fabric.Endpoint, gone []string) error {
	if l.rng.IntN(10) == 0 {
		return errors.New("no buffer space")
	}
	if l.endpoints[network] == nil {
		l.endpoints[network] = map[string]fabric.Endpoint{}
	}
	for _, id := range gone {
		delete(l.endpoints[network], id)
	}
	for _, e := range placed {
		l.endpoints[network][e.TaskID] = e
	}
	return nil
}

// After any changes, in batches of any size, the fabric has the same endpoints as the directory.
func TestFabricGetsEveryEndpoint(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	p, d, k := newRig()
	l := &memoryFabric{fakeFabric: fakeFabric{k}, rng: rng, endpoints: map[string]map[string]fabric.Endpoint{}}
	p.deps.Fabric, p.deps.Log = l, slog.New(slog.DiscardHandler)
	const steps = 2000
	for step := range steps {
		var changes []*swarmv1.AssignmentChange
		for range 1 + rng.IntN(5) {
			changes = append(changes, randomChange(rng))
		}
		d.Apply(changes)
		for p.catchUp(t.Context()) != nil { // A failure is tried again.
			if rng.IntN(2) == 0 {
				d.Apply([]*swarmv1.AssignmentChange{randomChange(rng)})
			}
		}
		for _, network := range []string{"net0", "net1"} {
			want := endpoints(d.Remote(network))
			got := slices.SortedFunc(maps.Values(l.endpoints[network]), func(a, b fabric.Endpoint) int { return cmp.Compare(a.TaskID, b.TaskID) })
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d, step %d: the fabric has %v, want %v", seed, step, got, want)
			}
		}
	}
	if l.synced > 2*steps {
		t.Errorf("seed %d: Sync was called %d times, want few calls", seed, l.synced)
	}
}

// randomChange returns a random change, with few different networks, nodes, services and tasks.
func randomChange(rng *rand.Rand) *swarmv1.AssignmentChange {
	network, node, task := fmt.Sprint("net", rng.IntN(2)), fmt.Sprint("n", 1+rng.IntN(4)), fmt.Sprint("t", rng.IntN(20))
	gone := func(kind swarmv1.AssignmentRef_Kind, id string) *swarmv1.AssignmentChange {
		return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: kind, Id: id}}}
	}
	switch rng.IntN(20) {
	case 0:
		return puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: network, Spec: &swarmv1.NetworkSpec{Name: network}}}})[0]
	case 1:
		return gone(swarmv1.AssignmentRef_NETWORK, network)
	case 2, 3:
		return puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: node, Addr: fmt.Sprint("192.0.2.", rng.IntN(9))}}})[0]
	case 4:
		return gone(swarmv1.AssignmentRef_PEERING, node)
	case 5, 6, 7, 8:
		return gone(swarmv1.AssignmentRef_BACKEND, task)
	}
	b := &swarmv1.Backend{TaskId: task, ServiceId: fmt.Sprint("s", rng.IntN(3)), NodeId: node, Ready: rng.IntN(2) == 0}
	for range 1 + rng.IntN(2) {
		b.Networks = append(b.Networks, &swarmv1.NetworkAttachment{NetworkId: network, Addresses: []string{fmt.Sprintf("10.0.1.%d/24", rng.IntN(30))}})
		network = "net1"
	}
	return puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: b}})[0]
}
