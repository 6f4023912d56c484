//go:build linux

// Package vip balances the connections of containers to the virtual addresses of services. It works
// inside the network namespace of each client container.
//
// The package owns one nftables table, `swarm-vip`, in each namespace that it programs, and the
// conntrack entries of the flows to virtual addresses there. Rules on the OUTPUT hook of the
// client's namespace choose a backend for each new connection, for every protocol and port. So the
// backend sees the client's address, a container can connect to itself, and ping works.
//
// The tables in the kernel are the only lasting record. A new process replaces each table in one
// transaction, which breaks no connection. The package does not know networks, names and ports. Its
// caller is overlay/plane. It starts no goroutines.
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

// Service is a service with its virtual addresses and its backends.
type Service struct {
	// VIPs has one or more virtual addresses, usually one of each family.
	VIPs []netip.Addr
	// Backends are addresses of both families. A virtual address uses the backends of its own
	// family. If it has none, connections to it are refused at once.
	Backends []netip.Addr
}

// Table lists the services that a container can reach by virtual address. It may have fewer
// services than the networks of the container.
type Table struct {
	Services []Service
}

// Tables programs any number of namespaces. Several goroutines may call its methods at a time.
// Calls for the same namespace wait for each other, except Reset.
type Tables struct {
	mu         sync.Mutex // guards spaces
	namespaces map[string]*namespace
}

// New returns Tables without any namespace. It does not change the kernel.
func New() *Tables { return &Tables{namespaces: make(map[string]*namespace)} }

// namespace is the state of one network namespace, as far as this process knows it.
type namespace struct {
	// lock serialises the operations and guards the fields below. It is a channel, so that a caller
	// stops waiting when its context ends.
	lock chan struct{}
	conn nft.Conn
	// programmed is false until this process has written the table, and after an error.
	programmed bool
	// mayHaveOldFlows says that there may be flows from the time of an earlier table. Their virtual
	// addresses are not in the set `datagrams` of this table. The first walk of the conntrack table
	// collects them in datagramVIPs.
	mayHaveOldFlows bool
	datagramVIPs    map[netip.Addr]bool
	services        map[netip.Addr]service
	sizeClasses     map[sizeClass]bool
}

// service holds the backends and the slots of one virtual address.
type service struct {
	// backends is sorted and has no duplicates.
	backends []netip.Addr
	slots    []netip.Addr
}

func (t *Tables) acquire(ctx context.Context, netns string) (*namespace, func(), error) {
	t.mu.Lock()
	s := t.namespaces[netns]
	if s == nil {
		s = &namespace{lock: make(chan struct{}, 1), conn: nft.Conn{Netns: netns}}
		t.namespaces[netns] = s
	}
	t.mu.Unlock()
	select {
	case s.lock <- struct{}{}:
		return s, func() { <-s.lock }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// Program writes the table of the namespace with its pin at netns, so that it has exactly these
// services. The first call writes the whole table, later calls write only the differences, in one
// transaction. New connections go to the given backends. Established TCP connections stay at their
// backend; datagrams to a backend that has left go to another one. Errors: ErrNotFound if the
// namespace does not exist; ErrInvalidArgument if two services have the same virtual address.
func (t *Tables) Program(ctx context.Context, netns string, want Table) error {
	next, err := wanted(want)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := t.acquire(ctx, netns)
	if err != nil {
		return err
	}
	defer release()
	if err := s.program(next); err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	return nil
}

// wanted returns the sorted backends of each virtual address.
func wanted(t Table) (map[netip.Addr][]netip.Addr, error) {
	out := make(map[netip.Addr][]netip.Addr, len(t.Services))
	for _, s := range t.Services {
		for _, vip := range s.VIPs {
			vip = vip.Unmap()
			if _, twice := out[vip]; twice || !vip.IsValid() {
				return nil, fmt.Errorf("virtual address %s is not valid or belongs to two services: %w", vip, errdefs.ErrInvalidArgument)
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

// Update changes the table since the last call: changed has new and changed services, gone has the
// virtual addresses that no service has any more. Its cost does not depend on the number of other
// services. The error is ErrFailedPrecondition if this process has not programmed the namespace or
// the last write failed. The caller must then call Program.
func (t *Tables) Update(ctx context.Context, netns string, changed Table, gone []netip.Addr) error {
	now, err := wanted(changed)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := t.acquire(ctx, netns)
	if err != nil {
		return err
	}
	defer release()
	if !s.programmed {
		return fmt.Errorf("service addresses of %s: the table must be written as a whole first: %w", netns, errdefs.ErrFailedPrecondition)
	}
	if err := s.update(now, gone); err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	return nil
}

func (s *namespace) program(want map[netip.Addr][]netip.Addr) error {
	if !s.programmed {
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

// update writes the differences for the addresses in want and gone. Other addresses stay as they
// are.
func (s *namespace) update(want map[netip.Addr][]netip.Addr, gone []netip.Addr) error {
	next := make(map[netip.Addr]service)
	change := newChange()
	left := make(leftBackends)
	for vip, backends := range want {
		had, ok := s.services[vip]
		if ok && slices.Equal(had.backends, backends) {
			continue
		}
		now := service{backends, slots.Fill(had.slots, backends, netip.Addr.Compare)}
		next[vip] = now
		left.add(vip, had.backends, backends)
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
			left.add(vip, had.backends, nil)
			delete(s.services, vip)
		}
	}
	err := s.conn.Do(func(c *nftables.Conn) error { return change.write(c, s.sizeClasses) })
	maps.Copy(s.services, next)
	if err != nil {
		// The transaction changed nothing. Another program may have changed the table before: write
		// all of it again.
		s.programmed, s.mayHaveOldFlows = false, true
		if err := s.replace(s.backends()); err != nil {
			return err
		}
	}
	return s.deleteDatagramFlows(left)
}

// backends returns the backends of each virtual address.
func (s *namespace) backends() map[netip.Addr][]netip.Addr {
	out := make(map[netip.Addr][]netip.Addr, len(s.services))
	for vip, service := range s.services {
		out[vip] = service.backends
	}
	return out
}

// replace writes the whole table, whether it exists or not.
func (s *namespace) replace(want map[netip.Addr][]netip.Addr) error {
	next := make(map[netip.Addr]service, len(want))
	change := newChange()
	for vip, backends := range want {
		next[vip] = service{backends, slots.Fill(nil, backends, netip.Addr.Compare)}
		change.add(vip, next[vip].slots)
	}
	sizeClasses := make(map[sizeClass]bool)
	if err := s.conn.Do(func(c *nftables.Conn) error { return change.replaceTable(c, sizeClasses) }); err != nil {
		return err
	}
	if s.services == nil {
		s.mayHaveOldFlows = !s.hasNoFlows()
	}
	left := make(leftBackends)
	for vip, had := range s.services {
		left.add(vip, had.backends, want[vip])
	}
	s.programmed, s.services, s.sizeClasses = true, next, sizeClasses
	return s.deleteDatagramFlows(left)
}

// Reset ends the namespace's established connections through virtual addresses to backends that no
// longer exist. The next packet of each connection is answered with a reset. Pass many addresses in
// one call, because each call walks the conntrack table, which may take long. Other calls do not
// wait for it. The error is ErrNotFound if the namespace does not exist.
func (t *Tables) Reset(_ context.Context, netns string, gone []netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	if err := deleteFlows(netns, toBackends(gone), families(gone)...); err != nil {
		return fmt.Errorf("reset connections of %s: %w", netns, err)
	}
	return nil
}

// Forget closes the connection to a namespace. The table stays in the kernel until the namespace
// ends, but the namespace cannot end before Forget is called.
func (t *Tables) Forget(netns string) error {
	t.mu.Lock()
	s := t.namespaces[netns]
	delete(t.namespaces, netns)
	t.mu.Unlock()
	if s == nil {
		return nil
	}
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	return s.conn.Close()
}

// Close calls Forget for each namespace.
func (t *Tables) Close() error {
	t.mu.Lock()
	all := make([]string, 0, len(t.namespaces))
	for netns := range t.namespaces {
		all = append(all, netns)
	}
	t.mu.Unlock()
	var errs []error
	for _, netns := range all {
		errs = append(errs, t.Forget(netns))
	}
	return errors.Join(errs...)
}
