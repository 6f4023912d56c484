//go:build linux

// Package vip balances the connections of containers to the virtual addresses of services. It works
// inside the network namespace of each client container.
//
// The package owns one nftables table, `swarm-vip`, in each namespace that it programs. It also
// deletes the conntrack entries of flows to virtual addresses there. Rules on the OUTPUT hook of
// the client's namespace choose a backend for each new connection, for every protocol and port. So
// the backend sees the client's address, a container can connect to itself, and ping works.
//
// The tables in the kernel are the only lasting record. A new process replaces each table in one
// transaction, which breaks no connection. The package does not know networks, names and ports. Its
// caller is overlay/plane. The package starts no goroutines.
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
	// Backends are addresses of both families. A virtual address uses the backends of its family.
	// If there are none, connections to the virtual address are refused at once.
	Backends []netip.Addr
}

// Balancer programs any number of namespaces. Several goroutines may call its methods at a time.
// Calls for the same namespace wait for each other, except Reset.
type Balancer struct {
	mu         sync.Mutex            // guards namespaces
	namespaces map[string]*namespace // by the path of the pin
}

// New returns a Balancer without any namespace. It does not change the kernel.
func New() *Balancer { return &Balancer{namespaces: make(map[string]*namespace)} }

// namespace is the state of one network namespace, as far as this process knows it.
type namespace struct {
	// lock serialises the operations and guards the fields below. It is a channel, so that a caller
	// stops waiting when its context ends.
	lock chan struct{}
	conn nft.Conn
	// programmed is false until this process has written the table, and after an error.
	programmed bool
	// mayHaveOldFlows says that there may be flows which began before this process wrote the table.
	// The set `datagrams` of the table has only the virtual addresses to which datagrams were sent
	// since then. The next walk of the conntrack table stores the virtual addresses of the older
	// flows in oldDatagramVIPs, and sets mayHaveOldFlows to false.
	mayHaveOldFlows bool
	oldDatagramVIPs map[netip.Addr]bool
	services        map[netip.Addr]service
	sizeClasses     map[sizeClass]bool
}

// service holds the backends and the slots of one virtual address.
type service struct {
	// backends is sorted and has no duplicates.
	backends []netip.Addr
	slots    []netip.Addr
}

func (b *Balancer) acquire(ctx context.Context, netns string) (*namespace, func(), error) {
	b.mu.Lock()
	s := b.namespaces[netns]
	if s == nil {
		s = &namespace{lock: make(chan struct{}, 1), conn: nft.Conn{Netns: netns}}
		b.namespaces[netns] = s
	}
	b.mu.Unlock()
	select {
	case s.lock <- struct{}{}:
		return s, func() { <-s.lock }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// Program writes the nftables table of the namespace that is pinned at netns. The table then has
// exactly the services in want. The first call for a namespace writes the whole table. Later calls
// write only the differences, in one transaction. New connections go to the given backends.
// Established TCP connections stay at their backend; datagrams to a backend that has left go to
// another one. Program returns ErrNotFound if the namespace does not exist, and ErrInvalidArgument
// if two services have the same virtual address.
func (b *Balancer) Program(ctx context.Context, netns string, want []Service) error {
	next, err := wanted(want)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := b.acquire(ctx, netns)
	if err != nil {
		return err
	}
	defer release()
	if err := s.program(next); err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	return nil
}

// wanted returns the backends of each virtual address, sorted and without duplicates. It returns
// ErrInvalidArgument if a virtual address is not valid or belongs to two services.
func wanted(services []Service) (map[netip.Addr][]netip.Addr, error) {
	out := make(map[netip.Addr][]netip.Addr, len(services))
	for _, s := range services {
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

// Update writes some changes to the nftables table of the namespace that is pinned at netns.
// changed has the services that are new or have changed. gone has the virtual addresses that no
// service has any more. The cost of a call does not depend on the number of other services. Update
// returns ErrFailedPrecondition if this process has not programmed the namespace, or if the last
// write failed. The caller must then call Program.
func (b *Balancer) Update(ctx context.Context, netns string, changed []Service, gone []netip.Addr) error {
	now, err := wanted(changed)
	if err != nil {
		return fmt.Errorf("service addresses of %s: %w", netns, err)
	}
	s, release, err := b.acquire(ctx, netns)
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
		// A transaction that fails changes nothing. Another program may have changed the table
		// before, so write the whole table again.
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
func (b *Balancer) Reset(_ context.Context, netns string, gone []netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	if err := deleteFlows(netns, toBackends(gone), families(gone)...); err != nil {
		return fmt.Errorf("reset connections of %s: %w", netns, err)
	}
	return nil
}

// Forget closes this process's netlink socket in a namespace. The kernel keeps the namespace until
// the socket is closed, and keeps the table until the namespace ends.
func (b *Balancer) Forget(netns string) error {
	b.mu.Lock()
	s := b.namespaces[netns]
	delete(b.namespaces, netns)
	b.mu.Unlock()
	if s == nil {
		return nil
	}
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	return s.conn.Close()
}

// Close calls Forget for each namespace.
func (b *Balancer) Close() error {
	b.mu.Lock()
	all := make([]string, 0, len(b.namespaces))
	for netns := range b.namespaces {
		all = append(all, netns)
	}
	b.mu.Unlock()
	var errs []error
	for _, netns := range all {
		errs = append(errs, b.Forget(netns))
	}
	return errors.Join(errs...)
}
