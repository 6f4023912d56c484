package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"swarm/node"
	"swarm/overlay/bridge"
	"swarm/overlay/detector"
	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/gossip"
	"swarm/overlay/mesh"
	"swarm/overlay/nft"
	"swarm/overlay/plane"
	"swarm/overlay/probe"
	"swarm/overlay/resolve"
	"swarm/overlay/vip"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// maxHealth is memberlist's own score from which this node is taken to be the one in trouble; it goes from 0, healthy, to 8.
const maxHealth = 4

// overlay is the data plane of a member.
type overlay struct {
	*plane.Plane
	directory *directory.Directory
	fabric    *fabric.Fabric
	tables    *vip.Tables
	names     *resolve.Feed
	meshes    *meshes
	gossip    *gossipMember
	dns       swarmv1.ResolverClient
	dnsConn   *grpc.ClientConn
}

// meshes makes the routing mesh once its network's identifier is known.
type meshes struct {
	port uint16
	log  *slog.Logger

	mu  sync.Mutex // guards what follows
	vni uint32
	of  *mesh.Mesh
}

// newOverlay makes the data plane. conflicted is called when another program of the host has a published port, or lets go.
func (p *parts) newOverlay(b node.Base, g *gossipMember, conflicted func()) (*overlay, error) {
	underlay, err := netip.ParseAddr(b.Membership.DataPathAddr)
	if err != nil {
		return nil, fmt.Errorf("data path address: %w", err)
	}
	o := &overlay{
		directory: directory.New(b.Membership.NodeID), tables: vip.New(),
		names:  resolve.NewFeed(resolve.FeedConfig{Socket: p.host.resolver()}, resolve.Deps{Log: b.Log}),
		meshes: &meshes{port: b.Membership.DataPathPort, log: b.Log},
		gossip: g,
	}
	if o.fabric, err = p.host.newFabric(underlay, b.Membership.DataPathPort); err != nil {
		return nil, err
	}
	dataPort := cmp.Or(b.Membership.DataPathPort, probe.DefaultDataPort)
	p.host.bridge.BlockUDPPort(dataPort)
	p.host.bridge.Guard(bridge.ClusterPorts{
		Cluster: cmp.Or(b.Membership.ListenPort, b.Membership.Port), Gossip: b.Membership.GossipPort, Data: dataPort,
	})
	// It connects when it is asked.
	if o.dnsConn, err = grpc.NewClient("unix://"+p.host.resolver(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, err
	}
	o.dns = swarmv1.NewResolverClient(o.dnsConn)
	o.Plane = plane.New(plane.Deps{
		Log: b.Log, Directory: o.directory, Bridge: p.host.bridge, Fabric: o.fabric, Tables: o.tables,
		Names: o.names, Mesh: o.meshes.get, Gossip: o.report,
		RoundDone: p.monitor.sinceProgrammed, ConflictsChanged: conflicted,
	})
	return o, nil
}

// Run follows what the directory is told, and keeps the host's rules and the name server in step.
func (o *overlay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Plane.Run(ctx) })
	g.Go(func() error {
		select {
		case <-o.Restored():
			return o.names.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return nft.Watch(ctx, rulesDelay, o.meshes.check, o.meshes.log) })
	return g.Wait()
}

// close lets go of the kernel, and leaves there what is there.
func (o *overlay) close() error {
	return errors.Join(o.tables.Close(), o.fabric.Close(), o.meshes.close(), o.dnsConn.Close())
}

// rulesDelay gathers a burst of changes of the host's rules.
const rulesDelay = 200 * time.Millisecond

// get returns the mesh of a network identifier. Another one is another cluster's, and the former mesh is left as it is.
func (m *meshes) get(vni uint32) plane.Mesh {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil || m.vni != vni {
		m.vni, m.of = vni, newMesh(vni, m.port, m.log)
	}
	return m.of
}

func newMesh(vni uint32, port uint16, log *slog.Logger) *mesh.Mesh {
	return mesh.New(mesh.Config{VNI: int(vni), Port: int(port)}, mesh.Deps{Log: log})
}

// check mends the mesh's rules.
func (m *meshes) check(ctx context.Context) error {
	m.mu.Lock()
	of := m.of
	m.mu.Unlock()
	if of == nil {
		return nil
	}
	return of.Check(ctx)
}

func (m *meshes) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		return nil
	}
	return m.of.Close()
}

// suspects returns the nodes that gossip reports as failed or left.
func (g *gossipMember) suspects() (detector.Suspects, <-chan struct{}) {
	members, changed := g.Gossip.Members()
	var s detector.Suspects
	for _, m := range members {
		switch m.Status {
		case gossip.Failed:
			s.Failed = append(s.Failed, m.ID)
		case gossip.Left:
			s.Left = append(s.Left, m.ID)
		}
	}
	return s, changed
}

// probe connects to a node's cluster port.
func (g *gossipMember) probe(ctx context.Context, id string) error {
	peer, ok := g.Resolve(id)
	if !ok {
		return errdefs.ErrNotFound
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", peer.HostPort())
	if err != nil {
		return err
	}
	return conn.Close()
}

// report is which nodes are dead.
func (o *overlay) report() (directory.Report, <-chan struct{}) {
	v, changed := o.gossip.detector.Verdict()
	return directory.Report{Dead: v.Dead, Certain: v.Confirmed, Faulty: o.gossip.Health() >= maxHealth}, changed
}

// overlayNetwork fits the plane to the worker.
type overlayNetwork struct{ plane *plane.Plane }

func (n overlayNetwork) Attach(ctx context.Context, a engine.Attachment) (engine.Attached, error) {
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

func (n overlayNetwork) Detach(ctx context.Context, taskID string) error {
	return n.plane.Detach(ctx, taskID)
}

func (n overlayNetwork) Restore(ctx context.Context, keep []engine.Attachment) error {
	held := make([]plane.Existing, 0, len(keep))
	for _, a := range keep {
		h, err := planeHeld(a)
		if err != nil {
			return fmt.Errorf("task %s: %w", a.TaskID, err)
		}
		held = append(held, h)
	}
	return n.plane.Restore(ctx, held)
}

// planeAttachment words a task's needs for the plane. A task on overlay networks has a leg on the node's own too: its way
// out, and where published ports come in. On internal networks alone, that leg answers and does not ask.
func planeAttachment(a engine.Attachment) (plane.Attachment, error) {
	out := plane.Attachment{TaskID: a.TaskID, NoEgress: true, SearchFirst: a.SearchFirst}
	for _, use := range a.Networks {
		switch use.Driver() {
		case engine.DriverOverlay:
			addresses, err := prefixes(use.Use.GetAddresses())
			if err != nil {
				return out, fmt.Errorf("network %s: %w", use.Network.GetSpec().GetName(), err)
			}
			out.Overlays = append(out.Overlays, plane.Overlay{Network: use.Network, Addresses: addresses})
			out.OnBridge = true
			out.NoEgress = out.NoEgress && use.Network.GetSpec().GetInternal()
			out.HostAccess = out.HostAccess || use.Network.GetSpec().GetHostAccess()
		case engine.DriverBridge:
			out.OnBridge, out.NoEgress = true, false
		case engine.DriverNone:
		default:
			return out, fmt.Errorf("network %s: driver %q is not known here: %w", use.Network.GetSpec().GetName(), use.Driver(), errdefs.ErrInvalidArgument)
		}
	}
	for _, u := range a.Upstreams {
		if addr, err := netip.ParseAddr(u); err == nil && u != resolve.Address { // It would ask itself.
			out.Upstreams = append(out.Upstreams, addr)
		}
	}
	var err error
	out.Ports, err = bridgePorts(a.Ports)
	return out, err
}

// planeHeld is what an earlier process was answered.
func planeHeld(a engine.Attachment) (plane.Existing, error) {
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
