//go:build linux

// Package plane keeps a host's data plane as the directory says it should be.
//
// It owns the order of things: what a task is connected to and when, and which
// piece is programmed after a change. The pieces own the kernel's state: bridge
// (the namespace, the way out, ports of this host), fabric (overlay networks),
// vip (service addresses in each container), mesh (ports published on all nodes)
// and resolve (names). It refuses to decide anything about the cluster; the
// directory does. Caller: the worker, through an adapter in cmd. Goroutines: those
// of Attach, which waits for them, and Run's caller's.
package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/internal/logsample"
	"swarm/internal/spec"
	"swarm/overlay/bridge"
	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/vip"
	swarmv1 "swarm/proto/swarm/v1"
)

// Bridge is the part of package bridge that is used here.
type Bridge interface {
	Attach(ctx context.Context, a bridge.Attachment) (bridge.Result, error)
	Detach(ctx context.Context, taskID string) error
	Restore(ctx context.Context, keep []bridge.Existing) error
	GuardPorts(ctx context.Context, others []uint16) error
}

// Fabric is the part of package fabric that is used here.
type Fabric interface {
	Attach(ctx context.Context, l fabric.Leg) error
	Detach(ctx context.Context, taskID string) error
	Sync(ctx context.Context, networkID string, endpoints []fabric.Endpoint) error
	Update(ctx context.Context, networkID string, there []fabric.Endpoint, gone []string) error
	Restore(ctx context.Context, keep []fabric.Leg) error
}

// Tables is the part of package vip that is used here.
type Tables interface {
	Program(ctx context.Context, netns string, want vip.Table) error
	Update(ctx context.Context, netns string, changed vip.Table, gone []netip.Addr) error
	Reset(ctx context.Context, netns string, gone []netip.Addr) error
	Connections(ctx context.Context, netns string) (map[string]vip.Connections, error)
	Forget(netns string) error
}

// Names is the part of resolve.Feed that is used here.
type Names interface {
	SetNetwork(n *swarmv1.ResolverNetwork)
	RemoveNetwork(id string)
	SetService(s *swarmv1.ResolverService)
	RemoveService(networkID, serviceID string)
	Serve(ctx context.Context, c *swarmv1.ResolverContainer) error
	SetContainer(c *swarmv1.ResolverContainer)
	Dismiss(containerID string)
	Applied(ctx context.Context) error
}

// Mesh is the part of mesh.Mesh that is used here.
type Mesh interface {
	Sync(ctx context.Context, s mesh.State) ([]mesh.Conflict, error)
	Reset(ctx context.Context, gone []netip.Addr) error
}

// Deps of the plane.
type Deps struct {
	Log       *slog.Logger
	Directory *directory.Directory
	Bridge    Bridge
	Fabric    Fabric
	Tables    Tables
	Names     Names
	// Mesh returns the routing mesh of a network identifier, the same one for the same.
	Mesh func(vni uint32) Mesh
	// Gossip reports dead nodes, with a channel that is closed at the next change. Optional.
	Gossip func() (directory.Report, <-chan struct{})
	// Programmed is told of each time that changes were written. It must not block. Optional.
	Programmed func(Round)
	// Conflicted is told when Conflicts has changed. It must not block. Optional.
	Conflicted func()
}

// Attachment is what a task needs of the network.
type Attachment struct {
	TaskID string
	// Overlays in the order of the task's interfaces.
	Overlays []Overlay
	// Bridged: the task has a leg on the node's own network: its way out, and where published ports come in.
	Bridged bool
	// Closed: the leg answers and does not ask.
	Closed bool
	// HostAccess: the leg reaches the cluster's own ports on its nodes.
	HostAccess bool
	// Ports published on this node alone.
	Ports []bridge.Port
	// Upstreams answer names that the cluster does not know; empty: the host's.
	Upstreams []netip.Addr
	// SearchFirst: names without a dot that the cluster does not know are asked of nobody.
	SearchFirst bool
}

// Overlay is a task's place on an overlay network.
type Overlay struct {
	Network   *swarmv1.Network
	Addresses []netip.Prefix
}

// Held is a task that is attached already, with what Attach answered.
type Held struct {
	Attachment
	Result bridge.Result
}

// Plane is a host's data plane. Its methods may be called by several goroutines.
type Plane struct {
	deps Deps
	// troubles writes what Run meets again each second.
	troubles *logsample.Sampler
	// restored is closed when Restore has succeeded.
	restored chan struct{}

	mu        sync.Mutex // guards tasks and conflicts
	tasks     map[string]*attached
	conflicts []mesh.Conflict

	// turn is taken by whoever programs changes. The rest belongs to it.
	turn    sync.Mutex
	pending directory.Changes
	// meshOwed: the mesh is not as it should be; meshFailed: the host could not make it so when it tried last.
	meshOwed, meshFailed bool
	// seen are the services as they were programmed last: what has gone is known only from here.
	seen map[string]directory.Service
	// local are addresses on the node's own network of tasks that the mesh sends to.
	local map[string][]netip.Addr
	// served are those of them that have been backends.
	served map[string]bool
	// cuts are connections to be reset once all else is programmed.
	cuts []func(context.Context) error
	// told are the ports that could not be held, with the reason.
	told map[mesh.Port]string
	// called are the networks' names, by id: of one that is gone nobody else knows it.
	called map[string]string
}

// attached is a task of this host.
type attached struct {
	Held
	// turn is held while the task's namespace is programmed, so that what was computed first is written first.
	turn sync.Mutex
	// behind: the namespace is not known to have all that was computed before, and needs all of it anew.
	behind atomic.Bool
	// failures in a row to bring the namespace up to date with the rest of the host. The plane's turn guards it.
	failures int
}

// newAttached is a task whose namespace is still to be programmed.
func newAttached(h Held) *attached {
	t := &attached{Held: h}
	t.behind.Store(len(h.Overlays) > 0)
	return t
}

// overlapping reports whether an address may be on two of the task's networks, and mean different services there.
func (t *attached) overlapping() bool {
	for i, a := range t.Overlays {
		for _, b := range t.Overlays[i+1:] {
			if slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return slices.ContainsFunc(b.Addresses, p.Overlaps) }) {
				return true
			}
		}
	}
	return false
}

// New returns a plane with no task: it touches nothing.
func New(deps Deps) *Plane {
	return &Plane{
		deps: deps, troubles: logsample.New(deps.Log), tasks: map[string]*attached{}, seen: map[string]directory.Service{}, local: map[string][]netip.Addr{},
		served: map[string]bool{}, told: map[mesh.Port]string{}, called: map[string]string{}, restored: make(chan struct{}),
	}
}

// Restored is closed once Restore has succeeded. Until then the plane knows less than the host's kernel and name server do.
func (p *Plane) Restored() <-chan struct{} { return p.restored }

// InForce returns once the kernel and the name server are as the directory says now, or with what keeps them from it.
func (p *Plane) InForce(ctx context.Context) error {
	select {
	case <-p.restored:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := p.catchUp(ctx); err != nil {
		return err
	}
	return p.deps.Names.Applied(ctx)
}

// Attach makes the task's namespace and connects it to all its networks. Again for the same task, it gives the same
// answer. When it returns, the task can be reached and finds what it may. ErrAlreadyExists: a port that is taken, with its
// holder.
func (p *Plane) Attach(ctx context.Context, a Attachment) (bridge.Result, error) {
	began := time.Now()
	result, err := p.deps.Bridge.Attach(ctx, a.leg())
	if err != nil {
		return result, err
	}
	bridged := time.Since(began)
	t := newAttached(Held{a, result})
	if err := p.connect(ctx, t); err != nil {
		return result, errors.Join(err, p.Detach(context.WithoutCancel(ctx), a.TaskID))
	}
	p.deps.Log.Debug("attached", "task", a.TaskID, "overlays", len(a.Overlays), "took", time.Since(began), "bridge", bridged)
	return result, nil
}

// connect does at once what does not wait for each other: the cables, the service addresses, and the name server.
func (p *Plane) connect(ctx context.Context, t *attached) error {
	// From here on changes reach the task.
	p.mu.Lock()
	p.tasks[t.TaskID] = t
	p.mu.Unlock()
	meshed := p.expect(t.TaskID)
	if len(t.Overlays) == 0 {
		if meshed {
			_ = p.catchUp(ctx) // What fails stays pending.
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for _, l := range t.legs() {
			if err := p.deps.Fabric.Attach(ctx, l); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		// What fails there may be another task's or the mesh's alone, and stays pending: Run tries again, and says so.
		_ = p.catchUp(ctx)
		g.Go(func() error { return p.program(ctx, t, func() vip.Table { return p.table(t) }) })
		ctx, cancel := context.WithTimeout(ctx, namesPatience)
		defer cancel()
		return p.deps.Names.Serve(ctx, t.names())
	})
	return g.Wait()
}

// Detach undoes Attach. Idempotent.
func (p *Plane) Detach(ctx context.Context, taskID string) error {
	p.mu.Lock()
	t := p.tasks[taskID]
	delete(p.tasks, taskID)
	p.mu.Unlock()
	var errs []error
	if t != nil && len(t.Overlays) > 0 {
		p.deps.Names.Dismiss(taskID)
		t.turn.Lock()
		errs = append(errs, p.deps.Tables.Forget(t.Result.Netns))
		t.turn.Unlock()
	}
	errs = append(errs, p.deps.Fabric.Detach(ctx, taskID), p.deps.Bridge.Detach(ctx, taskID))
	return errors.Join(errs...)
}

// Restore is called once, before any Attach, with what the host's tasks hold: what else an earlier process left is removed,
// and what is missing is made again. Tasks whose network is whole notice nothing.
func (p *Plane) Restore(ctx context.Context, keep []Held) error {
	var (
		held []bridge.Existing
		legs []fabric.Leg
	)
	tasks := make(map[string]*attached, len(keep))
	for _, k := range keep {
		t := newAttached(k)
		tasks[k.TaskID] = t
		held = append(held, bridge.Existing{Attachment: k.leg(), Result: k.Result})
		legs = append(legs, t.legs()...)
	}
	if err := p.deps.Bridge.Restore(ctx, held); err != nil {
		return err
	}
	if err := p.deps.Fabric.Restore(ctx, legs); err != nil {
		return err
	}
	p.mu.Lock()
	maps.Copy(p.tasks, tasks)
	p.mu.Unlock()
	for _, t := range tasks {
		if len(t.Overlays) > 0 {
			p.deps.Names.SetContainer(t.names())
		}
	}
	p.deps.Directory.Everything()
	// The name server is told all that it may know at once, and what it does not hear then it forgets.
	if err := p.catchUp(ctx); err != nil {
		p.deps.Log.Error("program the overlay", "err", err) // Tried again in Run.
	}
	close(p.restored)
	return nil
}

// leg is the task's leg on the node's own network, after those on overlay networks.
func (a Attachment) leg() bridge.Attachment {
	return bridge.Attachment{
		TaskID: a.TaskID, LoopbackOnly: !a.Bridged, Interface: Interface(len(a.Overlays)),
		PortIsolated: len(a.Overlays) > 0, NoEgress: a.Closed, HostAccess: a.HostAccess, Ports: a.Ports,
	}
}

func (t *attached) legs() []fabric.Leg {
	var out []fabric.Leg
	for i, o := range t.Overlays {
		out = append(out, fabric.Leg{
			TaskID: t.TaskID, Network: fabric.Network{ID: o.Network.GetId(), VNI: o.Network.GetVni(), MTU: spec.NetworkMTU(o.Network.GetSpec())},
			Netns:     t.Result.Netns,
			Interface: Interface(i), Addresses: o.Addresses,
		})
	}
	return out
}

// Interface is the name of a task's n-th interface.
func Interface(n int) string { return "eth" + strconv.Itoa(n) }

func (t *attached) on(networks map[string]bool) bool {
	return slices.ContainsFunc(t.Overlays, func(o Overlay) bool { return networks[o.Network.GetId()] })
}

// networks names the set of overlay networks that the task is on.
func (t *attached) networks() string {
	var b strings.Builder
	for _, o := range t.Overlays {
		b.WriteString(o.Network.GetId() + " ")
	}
	return b.String()
}

// program writes the service addresses that the task may use: all of them.
func (p *Plane) program(ctx context.Context, t *attached, table func() vip.Table) error {
	return p.write(t, func() error { return p.deps.Tables.Program(ctx, t.Result.Netns, table()) })
}

// update writes those that have changed.
func (p *Plane) update(ctx context.Context, t *attached, changed vip.Table, gone []netip.Addr) error {
	return p.write(t, func() error { return p.deps.Tables.Update(ctx, t.Result.Netns, changed, gone) })
}

// write notes whether the task has all of them.
func (p *Plane) write(t *attached, do func() error) error {
	return p.inside(t, func() error {
		err := do()
		t.behind.Store(err != nil)
		return err
	})
}

// inside changes the task's namespace, unless the task was detached meanwhile.
func (p *Plane) inside(t *attached, change func() error) error {
	t.turn.Lock()
	defer t.turn.Unlock()
	if !p.attached(t) {
		return nil
	}
	if err := change(); err != nil {
		return fmt.Errorf("task %s: %w", t.TaskID, err)
	}
	return nil
}

// attached reports whether the task is still here.
func (p *Plane) attached(t *attached) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tasks[t.TaskID] == t
}
