//go:build linux

// Package fabric gives tasks the overlay networks: on each host and for each network
// a bridge with the host's tasks on it, and a VXLAN device to the hosts of the others.
//
// It owns a network namespace for each network with a task on this host, pinned in
// Config.PinDir under the network's id; bridge, VXLAN device, cables and their entries
// are in there, so that networks with the same subnet do not meet, and removing the
// namespace removes all. The namespace is made with the network's first task and
// removed with its last. What the kernel holds is the only state: a new process is
// told in Restore which tasks there are, and compares. Nothing is learned from traffic:
// where an address is comes from Sync and Update. It refuses to choose addresses, and knows
// neither services nor names. Caller: the worker, through an adapter in cmd. No goroutines.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"swarm/overlay/netns"
)

// Config of the overlay networks of a host.
type Config struct {
	// PinDir holds a pin for each network in use, named by its id. Required.
	PinDir string
	// Port is the UDP port of the VXLAN packets; default 4789.
	Port uint16
	// Underlay is the address that other hosts send VXLAN packets to. Required.
	Underlay netip.Addr
	// MTU of networks that ask for none; default: the underlay's less the encapsulation.
	MTU int
}

// Deps of the overlay networks.
type Deps struct {
	Log *slog.Logger
}

// Network is what a host has to know of one.
type Network struct {
	ID string
	// VNI tells the networks' packets apart; from 65536, below are others'.
	VNI uint32
	// MTU of its interfaces; 0 is Config.MTU.
	MTU int
}

// Leg is a task's interface on a network.
type Leg struct {
	TaskID  string
	Network Network
	// Netns is the pin of the task's namespace.
	Netns     string
	Interface string
	// Addresses, at most one of a family. The hardware address derives from the first.
	Addresses []netip.Prefix
}

// Endpoint is a task on another host.
type Endpoint struct {
	TaskID string
	// Addresses, at most one of a family, in the order that its own host has them.
	Addresses []netip.Addr
	// Host is the underlay address of its host.
	Host netip.Addr
}

// Fabric is all overlay networks of this host. Its methods may be called by several goroutines.
type Fabric struct {
	cfg Config
	log *slog.Logger

	// turn is taken for each operation. A channel, so that waiting for it ends with
	// the caller's context.
	turn chan struct{}
	// The rest belongs to whoever has the turn.
	host     *host
	networks map[string]*network
	// wanted are the tasks on other hosts that the caller told of, for each network, in use here or not.
	wanted map[string]*members
}

// host is the namespace of the underlay.
type host struct {
	ns *netns.Namespace
	h  *netlink.Handle
}

// New returns the fabric with no network: it touches nothing.
func New(cfg Config, deps Deps) (*Fabric, error) {
	if cfg.Port == 0 {
		cfg.Port = 4789
	}
	switch {
	case cfg.PinDir == "":
		return nil, fmt.Errorf("overlay networks: no folder for namespaces: %w", errdefs.ErrInvalidArgument)
	case !cfg.Underlay.IsValid() || cfg.Underlay.IsUnspecified():
		return nil, fmt.Errorf("overlay networks: %q is no address that other hosts can send to: %w", cfg.Underlay, errdefs.ErrInvalidArgument)
	}
	cfg.Underlay = cfg.Underlay.Unmap()
	return &Fabric{
		cfg: cfg, log: deps.Log, turn: make(chan struct{}, 1),
		networks: make(map[string]*network), wanted: make(map[string]*members),
	}, nil
}

func (f *Fabric) take(ctx context.Context) (release func(), err error) {
	select {
	case f.turn <- struct{}{}:
		return func() { <-f.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l Leg) validate() error {
	switch {
	case !validID(l.TaskID) || !validID(l.Network.ID):
		return fmt.Errorf("leg of task %q on network %q: %w", l.TaskID, l.Network.ID, errdefs.ErrInvalidArgument)
	case l.Network.VNI == 0 || l.Network.VNI >= 1<<24:
		return fmt.Errorf("network %s: network identifier %d: %w", l.Network.ID, l.Network.VNI, errdefs.ErrInvalidArgument)
	case len(l.Addresses) == 0 || l.Interface == "" || l.Netns == "":
		return fmt.Errorf("leg of task %s on network %s: address, interface or namespace is missing: %w", l.TaskID, l.Network.ID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validID: ids become names of files.
func validID(id string) bool {
	return id != "" && !strings.HasPrefix(id, ".") && !strings.Contains(id, "/")
}

// Attach connects a task to a network, which is made if this is its first task here. Again
// for a leg that is whole, it does nothing.
func (f *Fabric) Attach(ctx context.Context, l Leg) error {
	if err := l.validate(); err != nil {
		return err
	}
	release, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := f.attach(ctx, l); err != nil {
		return errors.Join(fmt.Errorf("attach task %s to network %s: %w", l.TaskID, l.Network.ID, err), f.detach(l.Network.ID, l.TaskID))
	}
	return nil
}

func (f *Fabric) attach(ctx context.Context, l Leg) error {
	n, err := f.network(ctx, l.Network)
	if err != nil {
		return err
	}
	return n.plug(l)
}

// network returns the network, made or taken over when this process does not have it yet.
func (f *Fabric) network(ctx context.Context, want Network) (*network, error) {
	if n, ok := f.networks[want.ID]; ok {
		return n, nil
	}
	if err := f.openHost(); err != nil {
		return nil, err
	}
	n, err := f.raise(ctx, want)
	if err != nil {
		return nil, err
	}
	f.networks[want.ID] = n
	if wanted, ok := f.wanted[want.ID]; ok {
		return n, n.write(wanted)
	}
	return n, nil
}

// Detach disconnects a task from all networks, and removes those that it was the last on. A
// task that is on none is no error.
func (f *Fabric) Detach(ctx context.Context, taskID string) error {
	release, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for id, n := range f.networks {
		if _, ok := n.legs[taskID]; ok {
			errs = append(errs, f.detach(id, taskID))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach task %s: %w", taskID, err)
	}
	return nil
}

func (f *Fabric) detach(networkID, taskID string) error {
	n, ok := f.networks[networkID]
	if !ok {
		return nil
	}
	err := n.unplug(taskID)
	if len(n.legs) > 0 {
		return errors.Join(err, n.refresh())
	}
	// With the network goes whatever of the cable is left.
	delete(f.networks, networkID)
	return f.raze(networkID, n)
}

// Sync says where the network's tasks on other hosts are: all of them. Only what
// has changed is written. For a network without a task here it is remembered until there
// is one; an empty set is forgotten. A task attached here is never sought elsewhere.
func (f *Fabric) Sync(ctx context.Context, networkID string, endpoints []Endpoint) error {
	return f.tell(ctx, networkID, endpoints, func() (*members, []Endpoint, bool) {
		return newMembers(endpoints), nil, true
	})
}

// Update is Sync for what has changed since: tasks that came or are elsewhere, and those that are gone. Its cost
// does not depend on how many other tasks there are. After an error the same again, or Sync, mends.
func (f *Fabric) Update(ctx context.Context, networkID string, there []Endpoint, gone []string) error {
	return f.tell(ctx, networkID, there, func() (*members, []Endpoint, bool) {
		m, ok := f.wanted[networkID]
		if !ok {
			m = newMembers(nil)
		}
		about, all := m.change(there, gone)
		return m, about, all
	})
}

// tell has the network's entries follow a change of its members: those about some of them, or all.
func (f *Fabric) tell(ctx context.Context, networkID string, told []Endpoint, change func() (m *members, about []Endpoint, all bool)) error {
	for _, e := range told {
		if err := e.validate(); err != nil {
			return fmt.Errorf("network %s: %w", networkID, err)
		}
	}
	release, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	m, about, all := change()
	if len(m.all) == 0 {
		delete(f.wanted, networkID)
	} else {
		f.wanted[networkID] = m
	}
	n, ok := f.networks[networkID]
	if !ok {
		return nil
	}
	if all || n.wanted != m {
		err = n.write(m)
	} else {
		err = n.amend(about)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", networkID, err)
	}
	return nil
}

// Restore is called once, before any Attach, with the legs that the host's tasks have. It removes
// what else an earlier process left behind and mends what is missing; a task whose legs are
// whole notices nothing. Entries for other hosts stay as they are until the next Sync. A leg
// that cannot be mended is told in the log, and its next Attach begins anew.
func (f *Fabric) Restore(ctx context.Context, keep []Leg) error {
	for _, l := range keep {
		if err := l.validate(); err != nil {
			return err
		}
	}
	release, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if len(f.networks) > 0 {
		return fmt.Errorf("restore the overlay networks: they are in use: %w", errdefs.ErrFailedPrecondition)
	}
	if err := f.openHost(); err != nil {
		return err
	}
	errs := []error{f.removeOthers(keep)}
	for _, l := range keep {
		if err := f.attach(ctx, l); err != nil {
			f.log.Error("restore the network of a task", "task", l.TaskID, "network", l.Network.ID,
				"err", errors.Join(err, f.detach(l.Network.ID, l.TaskID)))
		}
	}
	for _, n := range f.networks {
		errs = append(errs, n.removeStrays())
	}
	return errors.Join(errs...)
}

// removeOthers removes networks that no leg is on.
func (f *Fabric) removeOthers(keep []Leg) error {
	ids, err := f.pinned()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if slices.ContainsFunc(keep, func(l Leg) bool { return l.Network.ID == id }) {
			continue
		}
		errs = append(errs, f.raze(id, nil))
	}
	return errors.Join(errs...)
}

// Purge removes every network, also what tasks still use.
func (f *Fabric) Purge(ctx context.Context) error {
	release, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	ids, err := f.pinned()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, f.raze(id, f.networks[id]))
		delete(f.networks, id)
	}
	return errors.Join(errs...)
}

// Close lets go of the handles that this process holds. The networks stay.
func (f *Fabric) Close() error {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	var errs []error
	for _, n := range f.networks {
		errs = append(errs, n.close())
	}
	clear(f.networks)
	if f.host != nil {
		f.host.h.Close()
		errs = append(errs, f.host.ns.Close())
		f.host = nil
	}
	return errors.Join(errs...)
}
