//go:build linux

// Package plane programs a host's data plane so that it matches package directory, which has the
// desired state.
//
// The package decides in which order a task is connected to its networks, and which package must
// write its part after a change. These packages own the state in the kernel and the name server:
//   - bridge: the task's namespace, its outgoing connections, and ports published on this host
//   - fabric: overlay networks
//   - vip: virtual addresses of services in each container
//   - mesh: ports published on all nodes
//   - resolve: names
//
// The package makes no decision about the cluster; package directory does. Its caller is the
// worker, through adapter/dataplane. A method may start goroutines, for example to write several
// namespaces in parallel, but waits for all of them before it returns.
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
	BlockPeerPorts(ctx context.Context, others []uint16) error
}

// Fabric is the part of package fabric that is used here.
type Fabric interface {
	Attach(ctx context.Context, l fabric.Attachment) error
	Detach(ctx context.Context, taskID string) error
	Sync(ctx context.Context, networkID string, endpoints []fabric.Endpoint) error
	Update(ctx context.Context, networkID string, placed []fabric.Endpoint, gone []string) error
	Restore(ctx context.Context, keep []fabric.Attachment) error
}

// Balancer is the part of vip.Balancer that is used here.
type Balancer interface {
	Program(ctx context.Context, netns string, want []vip.Service) error
	Update(ctx context.Context, netns string, changed []vip.Service, gone []netip.Addr) error
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
	RemoveContainer(containerID string)
	Applied(ctx context.Context) error
}

// Mesh is the part of mesh.Mesh that is used here.
type Mesh interface {
	Sync(ctx context.Context, s mesh.State) ([]mesh.Conflict, error)
	Reset(ctx context.Context, gone []netip.Addr) error
}

// Deps are the live objects that the plane uses.
type Deps struct {
	Log       *slog.Logger
	Directory *directory.Directory
	Bridge    Bridge
	Fabric    Fabric
	Balancer  Balancer
	Names     Names
	// Mesh returns the routing mesh for a VNI. Calls with the same VNI return the same instance.
	Mesh func(vni uint32) Mesh
	// Dead returns the dead nodes, and a channel that is closed at the next change. Optional.
	Dead func() (directory.Report, <-chan struct{})
	// RoundDone is called after each round of writing changes. It must not block. Optional.
	RoundDone func(Round)
	// ConflictsChanged is called when the result of Conflicts has changed. It must not block.
	// Optional.
	ConflictsChanged func()
}

// Attachment describes how to connect a task.
type Attachment struct {
	TaskID string
	// Overlays are the task's overlay networks, in the order of its interfaces.
	Overlays []Overlay
	// OnBridge gives the task an interface on the node's bridge network, for outgoing connections
	// and published ports. It is the last interface of the task.
	OnBridge bool
	// NoEgress: the bridge interface may answer connections but not open them. The task's name
	// server asks no upstreams.
	NoEgress bool
	// HostAccess lets the task connect to the cluster's own ports on the nodes, through the bridge
	// interface.
	HostAccess bool
	// Ports are the ports published on this node only.
	Ports []bridge.Port
	// Upstreams are the name servers for names outside the cluster. If it is empty, the host's
	// servers are used.
	Upstreams []netip.Addr
	// SearchFirst: the name server sends a name without a dot to no upstream, even if the cluster
	// does not know the name.
	SearchFirst bool
}

// Overlay is a task's connection to an overlay network.
type Overlay struct {
	Network   *swarmv1.Network
	Addresses []netip.Prefix
}

// Existing is a task that an earlier process attached. Result is what Attach returned for it.
type Existing struct {
	Attachment
	Result bridge.Result
}

// Plane is a host's data plane. Several goroutines may call its methods at a time.
type Plane struct {
	deps Deps
	// sampledErrors logs the errors of Run. It limits how often it logs an error that each round
	// repeats.
	sampledErrors *logsample.Sampler
	// restored is closed when Restore has succeeded.
	restored chan struct{}

	mu        sync.Mutex // guards tasks and conflicts
	tasks     map[string]*attachedTask
	conflicts []mesh.Conflict

	// programMu is held while changes are programmed. It guards the fields below.
	programMu sync.Mutex
	// pending are the changes of the directory that are not programmed yet.
	pending directory.Changes
	// meshPending says that the next round must sync the mesh, even if pending has no reason for
	// it.
	meshPending bool
	// meshFailed says that the last sync of the mesh failed.
	meshFailed bool
	// lastServices are the services as they were in the last round. A comparison with them shows
	// which addresses and tasks have gone.
	lastServices map[string]directory.Service
	// bridgeAddresses are the addresses on the bridge of the tasks that the mesh knows, by task ID.
	bridgeAddresses map[string][]netip.Addr
	// hasServed has the tasks in bridgeAddresses that have been backends.
	hasServed map[string]bool
	// pendingResets are functions that reset connections. Run calls them after each round.
	pendingResets []func(context.Context) error
	// loggedConflicts are the ports at which this host does not answer, with the reason, as they
	// were last logged.
	loggedConflicts map[mesh.Port]string
	// networkNames are the names of the networks by ID. The directory does not have the name of a
	// removed network.
	networkNames map[string]string
}

// attachedTask is a task of this host.
type attachedTask struct {
	Existing
	// mu is held while the task's namespace is programmed. Attach, Detach and Run may do so at the
	// same time.
	mu sync.Mutex
	// needsFullWrite says that the namespace may lack earlier changes. All its service addresses
	// must then be written, and not only those that change.
	needsFullWrite atomic.Bool
	// failures is the number of rounds in a row that could not write the namespace. Plane.programMu
	// guards it.
	failures int
}

// newAttachedTask returns a task whose namespace is not programmed yet.
func newAttachedTask(h Existing) *attachedTask {
	t := &attachedTask{Existing: h}
	t.needsFullWrite.Store(len(h.Overlays) > 0)
	return t
}

// sharesAddresses reports whether two of the task's networks have overlapping subnets. One virtual
// address may then belong to two services.
func (t *attachedTask) sharesAddresses() bool {
	for i, a := range t.Overlays {
		for _, b := range t.Overlays[i+1:] {
			if slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return slices.ContainsFunc(b.Addresses, p.Overlaps) }) {
				return true
			}
		}
	}
	return false
}

// New returns a plane without tasks. It does not change the kernel.
func New(deps Deps) *Plane {
	return &Plane{
		deps: deps, sampledErrors: logsample.New(deps.Log), tasks: map[string]*attachedTask{}, lastServices: map[string]directory.Service{}, bridgeAddresses: map[string][]netip.Addr{},
		hasServed: map[string]bool{}, loggedConflicts: map[mesh.Port]string{}, networkNames: map[string]string{}, restored: make(chan struct{}),
	}
}

// Restored returns a channel that is closed when Restore has succeeded. Before that the kernel and
// the name server may have tasks and services that the plane does not know.
func (p *Plane) Restored() <-chan struct{} { return p.restored }

// Programmed waits until the kernel and the name server match the current state of the directory.
// It returns an error if a change cannot be programmed; Run tries the change again.
func (p *Plane) Programmed(ctx context.Context) error {
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

// Attach creates the task's namespace and connects it to all its networks. When Attach returns, the
// task can be reached, and can resolve and reach the services on its networks. If the task is
// already attached, Attach returns the same result again. If Attach fails, it detaches the task.
// The error is ErrAlreadyExists if a port is in use; the text names the user of the port.
func (p *Plane) Attach(ctx context.Context, a Attachment) (bridge.Result, error) {
	began := time.Now()
	result, err := p.deps.Bridge.Attach(ctx, a.bridgeAttachment())
	if err != nil {
		return result, err
	}
	bridged := time.Since(began)
	t := newAttachedTask(Existing{a, result})
	if err := p.connect(ctx, t); err != nil {
		return result, errors.Join(err, p.Detach(context.WithoutCancel(ctx), a.TaskID))
	}
	p.deps.Log.Debug("connected a task to its networks", "task", a.TaskID, "overlays", len(a.Overlays), "took", time.Since(began), "bridge", bridged)
	return result, nil
}

// connect connects the overlay interfaces, programs the service addresses and makes the name server
// serve the task, in parallel.
func (p *Plane) connect(ctx context.Context, t *attachedTask) error {
	// Register the task first. Each later round then programs its changes for this task too.
	p.mu.Lock()
	p.tasks[t.TaskID] = t
	p.mu.Unlock()
	meshed := p.announceToMesh(t.TaskID)
	if len(t.Overlays) == 0 {
		if meshed {
			_ = p.catchUp(ctx) // A failed change stays pending, and Run tries it again.
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.attachOverlays(ctx, t) })
	g.Go(func() error {
		// An error may concern only another task or the mesh, so it must not fail this task. Run
		// tries again and logs it.
		_ = p.catchUp(ctx)
		// Do not call program beside catchUp: if the round has changes, it writes all service
		// addresses of a new task, and program then finds nothing to write. program and serveNames
		// do not depend on each other.
		g.Go(func() error { return p.program(ctx, t, func() []vip.Service { return p.servicesFor(t) }) })
		return p.serveNames(ctx, t)
	})
	return g.Wait()
}

// attachOverlays connects the task to its overlay networks.
func (p *Plane) attachOverlays(ctx context.Context, t *attachedTask) error {
	for _, a := range t.fabricAttachments() {
		if err := p.deps.Fabric.Attach(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// Detach undoes Attach. It returns nil if the task is not attached.
func (p *Plane) Detach(ctx context.Context, taskID string) error {
	p.mu.Lock()
	t := p.tasks[taskID]
	delete(p.tasks, taskID)
	p.mu.Unlock()
	var errs []error
	if t != nil && len(t.Overlays) > 0 {
		p.deps.Names.RemoveContainer(taskID)
		t.mu.Lock()
		errs = append(errs, p.deps.Balancer.Forget(t.Result.Netns))
		t.mu.Unlock()
	}
	errs = append(errs, p.deps.Fabric.Detach(ctx, taskID), p.deps.Bridge.Detach(ctx, taskID))
	return errors.Join(errs...)
}

// Restore takes over the tasks that an earlier process attached. The caller calls it once, before
// the first Attach. It keeps the network of the tasks in keep, creates the parts that are missing,
// and removes everything else that an earlier process left. It does not interrupt the traffic of a
// task whose network is complete.
func (p *Plane) Restore(ctx context.Context, keep []Existing) error {
	var (
		held        []bridge.Existing
		attachments []fabric.Attachment
	)
	tasks := make(map[string]*attachedTask, len(keep))
	for _, k := range keep {
		t := newAttachedTask(k)
		tasks[k.TaskID] = t
		held = append(held, bridge.Existing{Attachment: k.bridgeAttachment(), Result: k.Result})
		attachments = append(attachments, t.fabricAttachments()...)
	}
	if err := p.deps.Bridge.Restore(ctx, held); err != nil {
		return err
	}
	if err := p.deps.Fabric.Restore(ctx, attachments); err != nil {
		return err
	}
	p.mu.Lock()
	maps.Copy(p.tasks, tasks)
	p.mu.Unlock()
	for _, t := range tasks {
		if len(t.Overlays) > 0 {
			p.deps.Names.SetContainer(t.resolverContainer())
		}
	}
	p.deps.Directory.MarkAll()
	// Send the whole content to the name server in this round: it deletes everything that this
	// round does not send.
	if err := p.catchUp(ctx); err != nil {
		p.deps.Log.Error("cannot program a change of the network: it is tried again", "err", err)
	}
	close(p.restored)
	return nil
}

// bridgeAttachment describes the task's interface on the bridge, which comes after the interfaces
// on overlay networks.
func (a Attachment) bridgeAttachment() bridge.Attachment {
	return bridge.Attachment{
		TaskID: a.TaskID, LoopbackOnly: !a.OnBridge, Interface: Interface(len(a.Overlays)),
		PortIsolated: len(a.Overlays) > 0, NoEgress: a.NoEgress, HostAccess: a.HostAccess, Ports: a.Ports,
	}
}

// fabricAttachments describes the task's interfaces on overlay networks.
func (t *attachedTask) fabricAttachments() []fabric.Attachment {
	var out []fabric.Attachment
	for i, o := range t.Overlays {
		out = append(out, fabric.Attachment{
			TaskID: t.TaskID, Network: fabric.Network{ID: o.Network.GetId(), VNI: o.Network.GetVni(), MTU: spec.NetworkMTU(o.Network.GetSpec())},
			Netns:     t.Result.Netns,
			Interface: Interface(i), Addresses: o.Addresses,
		})
	}
	return out
}

// Interface returns the name of a task's n-th interface, counted from zero.
func Interface(n int) string { return "eth" + strconv.Itoa(n) }

// on reports whether the task is on one of the networks.
func (t *attachedTask) on(networks map[string]bool) bool {
	return slices.ContainsFunc(t.Overlays, func(o Overlay) bool { return networks[o.Network.GetId()] })
}

// networksKey returns a map key for the list of the task's overlay networks.
func (t *attachedTask) networksKey() string {
	var b strings.Builder
	for _, o := range t.Overlays {
		b.WriteString(o.Network.GetId() + " ")
	}
	return b.String()
}

// program writes all service addresses of the task. It calls services with the task's lock held,
// because the services may change while it waits for the lock.
func (p *Plane) program(ctx context.Context, t *attachedTask, services func() []vip.Service) error {
	return p.recordWrite(t, func() error { return p.deps.Balancer.Program(ctx, t.Result.Netns, services()) })
}

// update writes only the service addresses that have changed.
func (p *Plane) update(ctx context.Context, t *attachedTask, changed []vip.Service, gone []netip.Addr) error {
	return p.recordWrite(t, func() error { return p.deps.Balancer.Update(ctx, t.Result.Netns, changed, gone) })
}

// recordWrite calls write, which writes to the task's namespace, and records whether the namespace
// then has all changes.
func (p *Plane) recordWrite(t *attachedTask, write func() error) error {
	return p.withNamespace(t, func() error {
		err := write()
		t.needsFullWrite.Store(err != nil)
		return err
	})
}

// withNamespace calls change with the task's lock held. It does nothing if the task was detached
// meanwhile.
func (p *Plane) withNamespace(t *attachedTask, change func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !p.isAttached(t) {
		return nil
	}
	if err := change(); err != nil {
		return fmt.Errorf("task %s: %w", t.TaskID, err)
	}
	return nil
}

// isAttached reports whether the task is still attached.
func (p *Plane) isAttached(t *attachedTask) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tasks[t.TaskID] == t
}
