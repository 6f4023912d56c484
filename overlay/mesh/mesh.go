//go:build linux

// Package mesh makes a published port answer on every host, and shows its containers the client's own address wherever
// they run.
//
// It owns, in the host's namespace: a VXLAN device between all hosts (`swmesh`), routing rules and tables that send answers
// back by the host that was asked, the nftables tables `swarm-mesh` and
// `swarm-mesh-zones`, accept rules in chains of others that would drop what is
// forwarded, and a bound socket for each port. All is made with the first port and removed with the last. The kernel
// is the only state that lasts: the first Sync of a process mends what it finds and breaks no connection. It refuses to know
// services and tasks: it is told ports, hosts and addresses. Caller: the overlay's controller. No goroutines but Run's caller's.
package mesh

import (
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

// Config of the mesh, the same on all hosts. Zero values are defaults, but for VNI.
type Config struct {
	// Device is the VXLAN device's name; default "swmesh".
	Device string
	// VNI of the network `ingress`. Required.
	VNI int
	// Port of VXLAN; default 4789.
	Port int
}

// Deps of the mesh.
type Deps struct {
	Log *slog.Logger
}

// Mesh is the routing mesh on this host. Its methods may be called by several goroutines.
type Mesh struct {
	cfg Config
	log *slog.Logger

	// turn is taken for each operation, as they change the same tables of the kernel; a channel, so that waiting ends with the
	// caller's context. The rest belongs to whoever has it.
	turn chan struct{}
	here *netns.Namespace
	h    *netlink.Handle
	rules
	links known
	books map[Port]*hostport.Held
}

// known is what this process has brought in line with the kernel.
type known struct {
	self  Node
	peers []Node
	valid bool
}

// New returns the mesh as yet unused: it touches nothing.
func New(cfg Config, deps Deps) *Mesh {
	if cfg.Device == "" {
		cfg.Device = "swmesh"
	}
	if cfg.Port == 0 {
		cfg.Port = 4789
	}
	return &Mesh{
		cfg: cfg, log: deps.Log, turn: make(chan struct{}, 1),
		rules: rules{port: cfg.Port}, books: make(map[Port]*hostport.Held),
	}
}

func (m *Mesh) take(ctx context.Context) (release func(), err error) {
	select {
	case m.turn <- struct{}{}:
		return func() { <-m.turn }, nil
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
	m.here, m.h = here, h
	return nil
}

// Sync makes the host's mesh what the state says, and writes only what differs. New connections go to present backends;
// established ones stay where they are, datagrams are sent on to another backend. Conflicts are ports that another program
// of this host has, and those on an address that it has not: they answer for the mesh on the other hosts; Sync again to try
// again.
func (m *Mesh) Sync(ctx context.Context, s State) ([]Conflict, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	release, err := m.take(ctx)
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

func (m *Mesh) sync(s State) ([]Conflict, error) {
	if len(s.Ports) == 0 {
		return nil, m.takeDown()
	}
	moved := !m.links.valid || !m.links.self.equal(s.Self) || !slices.EqualFunc(m.links.peers, s.Peers, Node.equal)
	if moved {
		m.links.valid = false
		if err := m.connect(s); err != nil {
			return nil, err
		}
	}
	conflicts, err := m.hold(s.Ports)
	if err != nil {
		return conflicts, err
	}
	left, err := m.rules.sync(s.tables(m.books))
	if err != nil {
		return conflicts, err
	}
	conflicts = append(conflicts, m.listen()...)
	if moved {
		// What is no longer used goes when nothing refers to it any more.
		if err := m.disconnect(s); err != nil {
			return conflicts, err
		}
		for _, was := range m.links.peers {
			if !slices.ContainsFunc(s.Peers, func(n Node) bool { return n.ID == was.ID }) {
				left.gone = append(left.gone, was.addresses()...)
			}
		}
		m.links = known{self: s.Self, peers: slices.Clone(s.Peers), valid: true}
		if len(s.Peers) > 0 {
			m.accepts().Ensure(&m.conn, m.log)
		}
	}
	return conflicts, m.forget(left)
}

// connect adds what packets between the hosts need; disconnect takes away what they no longer do.
func (m *Mesh) connect(s State) error {
	if len(s.Peers) == 0 {
		return nil
	}
	link, err := m.ensureDevice(s.Self)
	if err != nil {
		return fmt.Errorf("device %s: %w", m.cfg.Device, err)
	}
	return errors.Join(m.zones(), m.addPeers(link, s.Peers), m.addRoutes(link, s.Peers))
}

func (m *Mesh) disconnect(s State) error {
	if len(s.Peers) == 0 {
		return m.removeDevice()
	}
	return errors.Join(m.removeStrayPeers(s.Peers), m.removeStrayRules(s.Peers))
}

// takeDown removes everything.
func (m *Mesh) takeDown() error {
	var errs []error
	for p, h := range m.books {
		errs = append(errs, h.Close())
		delete(m.books, p)
	}
	errs = append(errs, m.rules.remove(), m.removeDevice())
	m.links = known{}
	return errors.Join(errs...)
}

// Reset cuts established connections to backends, or to hosts by their mesh addresses, that no longer exist: the next packet
// of each is answered with a reset. One call for many: it walks the kernel's table of flows.
func (m *Mesh) Reset(ctx context.Context, gone []netip.Addr) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.open(); err != nil {
		return err
	}
	return m.forget(departures{gone: gone})
}

// Check compares the rules of the kernel with what they should be and mends them: another program may have flushed them, or
// have come to drop what is forwarded.
func (m *Mesh) Check(ctx context.Context) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !m.links.valid {
		return nil
	}
	if err := m.rules.mend(m.log); err != nil || len(m.links.peers) == 0 {
		return err
	}
	return errors.Join(m.zones(), m.accepts().Mend(&m.conn))
}

// Run checks the rules whenever somebody has changed the host's, until ctx ends.
func (m *Mesh) Run(ctx context.Context) error {
	return nft.Watch(ctx, 200*time.Millisecond, m.Check, m.log)
}

// Close lets go of the ports and handles that this process holds. The mesh stays.
func (m *Mesh) Close() error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	var errs []error
	for _, h := range m.books {
		errs = append(errs, h.Close())
	}
	clear(m.books)
	m.links = known{}
	m.rules.forgetTable()
	if m.h != nil {
		m.h.Close()
		errs = append(errs, m.here.Close(), m.conn.Close())
		m.here, m.h = nil, nil
	}
	return errors.Join(errs...)
}

// Purge removes everything: this host leaves the mesh.
func (m *Mesh) Purge(ctx context.Context) error {
	release, err := m.take(ctx)
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

// Accepts are the rules in others' chains that let the mesh's packets through.
func Accepts(device string) nft.Accepts { return nft.Accepts{Interface: device, Tag: tableName} }
