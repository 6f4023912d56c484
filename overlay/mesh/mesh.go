//go:build linux

// Package mesh implements the routing mesh: every host answers at a published port and forwards
// each connection to a backend, on whichever host the backend runs. The backend sees the client's
// address.
//
// In the host's namespace the package owns:
//   - a VXLAN device that connects all hosts (`swmesh`)
//   - routing rules and tables, which send answers back through the host to which the client
//     connected
//   - the nftables tables `swarm-mesh` and `swarm-mesh-zones`
//   - accept rules in foreign chains that would drop forwarded packets
//   - a bound socket for each published port
//
// A Sync with the first published port creates all of these, and a Sync without ports removes them.
// The kernel is the only lasting record: the first Sync of a process repairs what it finds there
// and breaks no connection. The package does not know services and tasks, only ports, hosts and
// addresses. Its caller is overlay/plane, and adapter/dataplane calls Check. The package starts no
// goroutines.
package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"swarm/overlay/hostport"
	"swarm/overlay/netns"
	"swarm/overlay/nft"
)

// Config configures the mesh. A zero field selects its default. VNI and Port must be the same on
// all hosts.
type Config struct {
	// Device is the name of the VXLAN device. The default is "swmesh".
	Device string
	// VNI is the VXLAN network identifier of the network `ingress`. Required.
	VNI int
	// Port is the UDP port of VXLAN. The default is 4789.
	Port int
}

// Deps are the live objects that the mesh uses.
type Deps struct {
	Log *slog.Logger
}

// Mesh is the routing mesh on this host. Several goroutines may call its methods at a time.
type Mesh struct {
	cfg Config
	log *slog.Logger

	// lock serialises the operations, because they change the same kernel tables, and guards the
	// fields below. It is a channel, so that a caller stops waiting when its context ends.
	lock   chan struct{}
	hostNS *netns.Namespace
	h      *netlink.Handle
	// rules has the nftables connection too.
	rules   rules
	applied appliedLinks
	// sockets hold the published ports at which this host answers.
	sockets map[Port]*hostport.Reservation
}

// appliedLinks are the nodes for which this process has programmed the device, neighbours and
// routes. If valid is false, the kernel may have the objects of other nodes.
type appliedLinks struct {
	self  Node
	peers []Node
	valid bool
}

// New returns a mesh. It does not change the kernel.
func New(cfg Config, deps Deps) *Mesh {
	if cfg.Device == "" {
		cfg.Device = "swmesh"
	}
	if cfg.Port == 0 {
		cfg.Port = 4789
	}
	return &Mesh{
		cfg: cfg, log: deps.Log, lock: make(chan struct{}, 1),
		rules: rules{port: cfg.Port}, sockets: make(map[Port]*hostport.Reservation),
	}
}

func (m *Mesh) acquire(ctx context.Context) (release func(), err error) {
	select {
	case m.lock <- struct{}{}:
		return func() { <-m.lock }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (m *Mesh) open() error {
	if m.h != nil {
		return nil
	}
	here, err := netns.Current()
	if err != nil {
		return err
	}
	h, err := here.Netlink()
	if err != nil {
		here.Close()
		return err
	}
	m.hostNS, m.h = here, h
	return nil
}

// Sync makes the mesh of this host match the state. It writes only the differences. New connections
// go to the backends in the state. Established connections stay at their backend; UDP flows to a
// backend that has left go to another one.
//
// Sync returns a Conflict for each port that another program of this host uses, and for each port
// on an address that this host does not have. The other hosts still answer at such a port. The next
// Sync tries the port again. The error is ErrInvalidArgument if the state is invalid.
func (m *Mesh) Sync(ctx context.Context, s State) ([]Conflict, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	// sync compares the peers with those of the last call, in order.
	s.Peers = slices.SortedFunc(slices.Values(s.Peers), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	release, err := m.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := m.open(); err != nil {
		return nil, fmt.Errorf("routing mesh: %w", err)
	}
	conflicts, err := m.sync(s)
	if err != nil {
		return conflicts, fmt.Errorf("routing mesh: %w", err)
	}
	return conflicts, nil
}

// sync works in this order, so that the rules never send a packet to a peer that the device does
// not know, and the sockets never get a connection: connect new peers, bind ports, write the rules,
// listen at the ports, disconnect old peers, delete stale flows.
func (m *Mesh) sync(s State) ([]Conflict, error) {
	if len(s.Ports) == 0 {
		return nil, m.takeDown()
	}
	moved := !m.applied.valid || !m.applied.self.equal(s.Self) || !slices.EqualFunc(m.applied.peers, s.Peers, Node.equal)
	if moved {
		m.applied.valid = false
		if err := m.connect(s); err != nil {
			return nil, err
		}
	}
	conflicts, err := m.holdPorts(s.Ports)
	if err != nil {
		return conflicts, err
	}
	left, err := m.rules.sync(s.content(m.sockets))
	if err != nil {
		return conflicts, err
	}
	conflicts = append(conflicts, m.listen()...)
	if moved {
		// Remove old peers only now, when the rules do not refer to them any more.
		if err := m.disconnect(s); err != nil {
			return conflicts, err
		}
		for _, was := range m.applied.peers {
			if !slices.ContainsFunc(s.Peers, func(n Node) bool { return n.ID == was.ID }) {
				left.goneAddresses = append(left.goneAddresses, was.addresses()...)
			}
		}
		m.applied = appliedLinks{self: s.Self, peers: slices.Clone(s.Peers), valid: true}
		if len(s.Peers) > 0 {
			m.accepts().Ensure(&m.rules.conn, m.log)
		}
	}
	return conflicts, m.deleteFlows(left)
}

// connect creates the device and adds what the peers in s need: neighbours, routes and routing
// rules.
func (m *Mesh) connect(s State) error {
	if len(s.Peers) == 0 {
		return nil
	}
	link, err := m.ensureDevice(s.Self)
	if err != nil {
		return fmt.Errorf("device %s: %w", m.cfg.Device, err)
	}
	return errors.Join(m.ensureZones(), m.addPeers(link, s.Peers), m.addRoutes(link, s.Peers))
}

// disconnect removes the neighbours, routes and routing rules of nodes that are not peers in s. If
// s has no peers, it removes the device.
func (m *Mesh) disconnect(s State) error {
	if len(s.Peers) == 0 {
		return m.removeDevice()
	}
	return errors.Join(m.removeStrayPeers(s.Peers), m.removeStrayRules(s.Peers))
}

// takeDown removes all objects of the mesh.
func (m *Mesh) takeDown() error {
	var errs []error
	for p, h := range m.sockets {
		errs = append(errs, h.Close())
		delete(m.sockets, p)
	}
	errs = append(errs, m.rules.removeTables(), m.removeDevice())
	m.applied = appliedLinks{}
	return errors.Join(errs...)
}

// Reset ends the established connections to the addresses in gone: those of backends that no longer
// exist, and the mesh addresses of hosts that no longer exist. The next packet of such a connection
// is answered with a reset. Pass many addresses in one call, because each call reads the whole
// conntrack table.
func (m *Mesh) Reset(ctx context.Context, gone []netip.Addr) error {
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.open(); err != nil {
		return err
	}
	return m.deleteFlows(staleFlows{goneAddresses: gone})
}

// Check compares the rules in the kernel with the expected rules and repairs them. Another program
// may have flushed them, or may have added a chain that drops forwarded packets.
func (m *Mesh) Check(ctx context.Context) error {
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !m.applied.valid {
		return nil
	}
	if err := m.rules.repair(m.log); err != nil || len(m.applied.peers) == 0 {
		return err
	}
	return errors.Join(m.ensureZones(), m.accepts().Mend(&m.rules.conn))
}

// Run calls Check after each change of the host's nftables rules, at most every 200 ms, until ctx
// ends.
func (m *Mesh) Run(ctx context.Context) error {
	return nft.Watch(ctx, 200*time.Millisecond, m.Check, m.log)
}

// Close closes the sockets and netlink handles of this process. The mesh in the kernel remains.
func (m *Mesh) Close() error {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	var errs []error
	for _, h := range m.sockets {
		errs = append(errs, h.Close())
	}
	clear(m.sockets)
	m.applied = appliedLinks{}
	m.rules.reset()
	if m.h != nil {
		m.h.Close()
		errs = append(errs, m.hostNS.Close(), m.rules.conn.Close())
		m.hostNS, m.h = nil, nil
	}
	return errors.Join(errs...)
}

// Purge removes all objects of the mesh. Call it when this host leaves the cluster.
func (m *Mesh) Purge(ctx context.Context) error {
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.open(); err != nil {
		return fmt.Errorf("routing mesh: %w", err)
	}
	return m.takeDown()
}

func (m *Mesh) accepts() nft.Accepts { return Accepts(m.cfg.Device) }

// Accepts returns the accept rules for the mesh's packets in the chains of other programs.
func Accepts(device string) nft.Accepts { return nft.Accepts{Interface: device, Tag: tableName} }
