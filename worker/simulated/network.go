package simulated

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Network allocates addresses and ports, and connects nothing. It survives the Worker that uses it.
type Network struct {
	// Fail returns the error of Attach; nil: it succeeds. Optional.
	Fail func(taskID string) error

	mu       sync.Mutex // guards what follows
	attached map[string]engine.Attached
	ports    map[string]string // "proto/port" -> task
	next     uint32
	nextPort uint32
	restored [][]engine.Attachment
}

var _ engine.Network = (*Network)(nil)

// NewNetwork returns a Network without attachments.
func NewNetwork() *Network {
	return &Network{attached: map[string]engine.Attached{}, ports: map[string]string{}, nextPort: 30000}
}

// Attach implements engine.Network.
func (n *Network) Attach(_ context.Context, a engine.Attachment) (engine.Attached, error) {
	if n.Fail != nil {
		if err := n.Fail(a.TaskID); err != nil {
			return engine.Attached{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if got, ok := n.attached[a.TaskID]; ok {
		return got, nil
	}
	got := engine.Attached{}
	for _, p := range a.Ports {
		p = p.CloneVT()
		for p.PublishedPort == 0 {
			if n.ports[portKey(p.Protocol, n.nextPort)] == "" {
				p.PublishedPort = n.nextPort
			}
			n.nextPort++
		}
		if holder := n.ports[portKey(p.Protocol, p.PublishedPort)]; holder != "" {
			return engine.Attached{}, fmt.Errorf("port %d is taken by task %s: %w", p.PublishedPort, holder, errdefs.ErrAlreadyExists)
		}
		got.Ports = append(got.Ports, p)
	}
	for _, p := range got.Ports {
		n.ports[portKey(p.Protocol, p.PublishedPort)] = a.TaskID
	}
	for _, use := range a.Networks {
		if use.Driver() != engine.DriverNone {
			n.next++
			got.Addresses = append(got.Addresses, fmt.Sprintf("10.%d.%d.%d/8", n.next>>16&255, n.next>>8&255, n.next&255))
		}
	}
	n.attached[a.TaskID] = got
	return got, nil
}

func portKey(proto swarmv1.PortConfig_Protocol, port uint32) string {
	return fmt.Sprintf("%s/%d", proto, port)
}

// Detach implements engine.Network.
func (n *Network) Detach(_ context.Context, taskID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.detachLocked(taskID)
	return nil
}

func (n *Network) detachLocked(taskID string) {
	delete(n.attached, taskID)
	for k, holder := range n.ports {
		if holder == taskID {
			delete(n.ports, k)
		}
	}
}

// Restore implements engine.Network.
func (n *Network) Restore(_ context.Context, keep []engine.Attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.restored = append(n.restored, keep)
	held := map[string]bool{}
	for _, a := range keep {
		held[a.TaskID] = true
	}
	for id := range n.attached {
		if !held[id] {
			n.detachLocked(id)
		}
	}
	return nil
}

// Attached returns how many tasks are attached.
func (n *Network) Attached() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.attached)
}

// Restored returns the argument of each call of Restore.
func (n *Network) Restored() [][]engine.Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.restored
}
