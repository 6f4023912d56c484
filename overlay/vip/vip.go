//go:build linux

// Package vip makes services answer at their virtual addresses, inside the network namespace of each container that
// uses them.
//
// It owns one nftables table, `swarm-vip`, in each namespace it is told of, and the tracked flows to virtual addresses there.
// The container's own OUTPUT hook chooses a backend for each new connection, whatever its protocol and port, so that the
// backend sees the client's address, a container reaches itself, and ping is answered. The kernel's tables are the only state
// that lasts: a new process replaces each in one transaction, which breaks no connection. It refuses to know networks, names
// and ports. Caller: the overlay's controller. No goroutines.
package vip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"

	"swarm/overlay/nft"
	"swarm/overlay/slots"
)

// Service is a virtual address, or one of each family, and who answers there now.
type Service struct {
	VIPs []netip.Addr
	// Backends are addresses of either family; an IPv4 VIP uses the IPv4 ones. None: connections are refused at once.
	Backends []netip.Addr
}

// Table is all that a container is to reach by virtual address. It may hold fewer services than the container's
// networks have, for instance only those that it has asked for by name.
type Table struct {
	Services []Service
}

// Tables programs any number of namespaces. Its methods may be called by several goroutines; calls for one namespace
// wait for each other, calls for different ones do not.
type Tables struct {
	mu     sync.Mutex // guards spaces
	spaces map[string]*space
}

// New returns a programmer that knows of no namespace: it touches nothing.
func New() *Tables { return &Tables{spaces: make(map[string]*space)} }

// space is what this process knows of one namespace.
type space struct {
	// turn is held for each operation, and gives up with the caller's context. It guards the rest.
	turn chan struct{}
	conn nft.Conn
	// known is false until this process has written the table, and after an error.
	known bool
	// inherited: there may be flows made under an earlier table, and their addresses are not in this one's `datagrams`. The
	// first walk of all flows finds them: sent has them from then on.
	inherited bool
	sent      map[netip.Addr]bool
	services  map[netip.Addr]service
	rungs     map[rung]bool
}

// service is what stands behind one virtual address.
type service struct {
	// backends in order, without doubles.
	backends []netip.Addr
	slots    []netip.Addr
}

func (t *Tables) take(ctx context.Context, netns string) (*space, func(), error) {
	t.mu.Lock()
	s := t.spaces[netns]
	if s == nil {
		s = &space{turn: make(chan struct{}, 1), conn: nft.Conn{Netns: netns}}
		t.spaces[netns] = s
	}
	t.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		return s, func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// Program makes the namespace pinned at netns reach exactly these services. Only what differs from the last call is
// written, in one transaction; the first call writes all. New connections go to present backends; established TCP stays
// where it is, while datagrams to a backend that has left are sent to another. ErrNotFound: there is no such namespace.
func (t *Tables) Program(ctx context.Context, netns string, want Table) error {
	next, err := wanted(want)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := t.take(ctx, netns)
	if err != nil {
		return err
	}
	defer release()
	if err := s.program(next); err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	return nil
}

// wanted lists the backends of each virtual address, in order.
func wanted(t Table) (map[netip.Addr][]netip.Addr, error) {
	out := make(map[netip.Addr][]netip.Addr, len(t.Services))
	for _, s := range t.Services {
		for _, vip := range s.VIPs {
			vip = vip.Unmap()
			if _, twice := out[vip]; twice || !vip.IsValid() {
				return nil, fmt.Errorf("virtual address %s is of two services: %w", vip, errdefs.ErrInvalidArgument)
			}
			same := make([]netip.Addr, 0, len(s.Backends))
			for _, b := range s.Backends {
				if b = b.Unmap(); b.BitLen() == vip.BitLen() {
					same = append(same, b)
				}
			}
			slices.SortFunc(same, netip.Addr.Compare)
			out[vip] = slices.Compact(same)
		}
	}
	return out, nil
}

// Update is Program for what has changed since: these services, whether they are new or not, and virtual addresses that
// nobody has any more. Its cost does not depend on how many other services there are. ErrFailedPrecondition: what the namespace
// has is not known to this process, and Program is to tell all.
func (t *Tables) Update(ctx context.Context, netns string, changed Table, gone []netip.Addr) error {
	now, err := wanted(changed)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := t.take(ctx, netns)
	if err != nil {
		return err
	}
	defer release()
	if !s.known {
		return fmt.Errorf("service addresses of %s: not known: %w", netns, errdefs.ErrFailedPrecondition)
	}
	if err := s.update(now, gone); err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	return nil
}

func (s *space) program(want map[netip.Addr][]netip.Addr) error {
	if !s.known {
		return s.replace(want)
	}
	var gone []netip.Addr
	for vip := range s.services {
		if _, stays := want[vip]; !stays {
			gone = append(gone, vip)
		}
	}
	return s.update(want, gone)
}

// update writes the difference for the addresses it is told of; the others stay.
func (s *space) update(want map[netip.Addr][]netip.Addr, gone []netip.Addr) error {
	next := make(map[netip.Addr]service)
	change := newChange()
	left := make(departures)
	for vip, backends := range want {
		had, ok := s.services[vip]
		if ok && slices.Equal(had.backends, backends) {
			continue
		}
		now := service{backends, slots.Fill(had.slots, backends, netip.Addr.Compare)}
		next[vip] = now
		left.note(vip, had.backends, backends)
		if ok {
			change.move(vip, had.slots, now.slots)
		} else {
			change.add(vip, now.slots)
		}
	}
	for _, vip := range gone {
		_, stays := want[vip]
		if had, ok := s.services[vip]; ok && !stays {
			change.remove(vip, had.slots)
			left.note(vip, had.backends, nil)
			delete(s.services, vip)
		}
	}
	err := s.conn.Do(func(c *nftables.Conn) error { return change.write(c, s.rungs) })
	maps.Copy(s.services, next)
	if err != nil {
		// Nothing was changed, or another program has changed the table before us: all is written.
		s.known, s.inherited = false, true
		if err := s.replace(s.backends()); err != nil {
			return err
		}
	}
	return s.forgetDatagrams(left)
}

// backends are those of every virtual address.
func (s *space) backends() map[netip.Addr][]netip.Addr {
	out := make(map[netip.Addr][]netip.Addr, len(s.services))
	for vip, service := range s.services {
		out[vip] = service.backends
	}
	return out
}

// replace writes the whole table anew, whatever there was.
func (s *space) replace(want map[netip.Addr][]netip.Addr) error {
	next := make(map[netip.Addr]service, len(want))
	change := newChange()
	for vip, backends := range want {
		next[vip] = service{backends, slots.Fill(nil, backends, netip.Addr.Compare)}
		change.add(vip, next[vip].slots)
	}
	rungs := make(map[rung]bool)
	if err := s.conn.Do(func(c *nftables.Conn) error { return change.rewrite(c, rungs) }); err != nil {
		return err
	}
	if s.services == nil {
		s.inherited = !s.fresh()
	}
	left := make(departures)
	for vip, had := range s.services {
		left.note(vip, had.backends, want[vip])
	}
	s.known, s.services, s.rungs = true, next, rungs
	return s.forgetDatagrams(left)
}

// Reset cuts the namespace's established connections by virtual addresses to backends that no longer exist: the next
// packet of each is answered with a reset. One call for many: it walks the kernel's table of flows, which may take long; other
// calls do not wait for it. ErrNotFound: there is no such namespace.
func (t *Tables) Reset(_ context.Context, netns string, gone []netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	if err := forget(netns, toBackends(gone), families(gone)...); err != nil {
		return fmt.Errorf("reset connections of %s: %w", netns, err)
	}
	return nil
}

// Forget lets go of a namespace, and must be called before it is to end. The table stays until then.
func (t *Tables) Forget(netns string) error {
	t.mu.Lock()
	s := t.spaces[netns]
	delete(t.spaces, netns)
	t.mu.Unlock()
	if s == nil {
		return nil
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.conn.Close()
}

// Close forgets every namespace.
func (t *Tables) Close() error {
	t.mu.Lock()
	all := make([]string, 0, len(t.spaces))
	for netns := range t.spaces {
		all = append(all, netns)
	}
	t.mu.Unlock()
	var errs []error
	for _, netns := range all {
		errs = append(errs, t.Forget(netns))
	}
	return errors.Join(errs...)
}
