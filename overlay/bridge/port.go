//go:build linux

package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostport"
)

// Port is a port of a task published on the host.
type Port struct {
	// HostIP limits the port to one address of the host. The zero value means all addresses.
	HostIP netip.Addr
	// Published is the port on the host. Zero lets the node choose it from the configured range.
	Published uint16
	// Target is the port in the container.
	Target uint16
	// Protocol is "tcp", "udp" or "sctp". The default is "tcp".
	Protocol string
}

func (p Port) String() string {
	s := strconv.Itoa(int(p.Published)) + "/" + p.Protocol
	if p.HostIP.IsValid() {
		s = p.HostIP.String() + ":" + s
	}
	return s
}

// overlaps reports whether one host cannot publish both ports.
func (p Port) overlaps(o Port) bool {
	return p.Published == o.Published && p.Protocol == o.Protocol &&
		(!p.HostIP.IsValid() || !o.HostIP.IsValid() || p.HostIP == o.HostIP)
}

// validTaskID checks that the task ID can be the name of a pin.
func validTaskID(id string) error {
	if id == "" || strings.ContainsAny(id, "/\x00") || id == "." || id == ".." {
		return fmt.Errorf("task ID %q is not a valid file name: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// normalise sets the defaults of the attachment and brings its host addresses into one form. It
// returns ErrInvalidArgument if the attachment is invalid.
func (a *Attachment) normalise() error {
	if err := validTaskID(a.TaskID); err != nil {
		return err
	}
	if a.LoopbackOnly && len(a.Ports) > 0 {
		return fmt.Errorf("task %s has no network, so it cannot publish a port: %w", a.TaskID, errdefs.ErrInvalidArgument)
	}
	if a.Interface == "" {
		a.Interface = defaultInterface
	}
	ports := make([]Port, len(a.Ports))
	for i, p := range a.Ports {
		if p.Protocol == "" {
			p.Protocol = "tcp"
		}
		if p.HostIP.IsValid() {
			p.HostIP = p.HostIP.Unmap()
			if p.HostIP == netip.IPv4Unspecified() || p.HostIP == netip.IPv6Unspecified() {
				p.HostIP = netip.Addr{}
			}
		}
		switch {
		case hostport.Number(p.Protocol) == 0:
			return fmt.Errorf("port %s: give tcp, udp or sctp: %w", p, errdefs.ErrInvalidArgument)
		case p.Target == 0:
			return fmt.Errorf("port %s: no target port: %w", p, errdefs.ErrInvalidArgument)
		}
		ports[i] = p
	}
	a.Ports = ports
	return nil
}

// portAllocator records which task has which host port, and chooses free ports.
type portAllocator struct {
	first, last, cursor uint16
	byTask              map[string][]Port
}

func newPortAllocator(first, last uint16) *portAllocator {
	return &portAllocator{first: first, last: last, cursor: last, byTask: make(map[string][]Port)}
}

// allocate binds all ports of a task or none. It chooses a free port for each Published that is
// zero.
func (b *portAllocator) allocate(task string, wanted []Port) (ports []Port, reservations []*hostport.Reservation, err error) {
	defer func() {
		if err != nil {
			for _, h := range reservations {
				err = errors.Join(err, h.Close())
			}
			b.release(task)
			ports, reservations = nil, nil
		}
	}()
	// Bind the fixed ports first, so that no chosen port takes one of them.
	ports = append(ports, wanted...)
	for _, chosen := range []bool{false, true} {
		for i, p := range wanted {
			if (p.Published == 0) != chosen {
				continue
			}
			var h *hostport.Reservation
			if chosen {
				ports[i], h, err = b.choose(p)
			} else {
				h, err = b.bind(p)
			}
			if err != nil {
				return
			}
			reservations = append(reservations, h)
			b.byTask[task] = append(b.byTask[task], ports[i])
		}
	}
	return
}

// reclaim binds the ports that a task had before this process began. It returns an error for the
// ports that it cannot bind, but records them too: they stay reserved for the task.
func (b *portAllocator) reclaim(task string, ports []Port) ([]*hostport.Reservation, error) {
	var reservations []*hostport.Reservation
	var errs []error
	for _, p := range ports {
		h, err := b.bind(p)
		if err != nil {
			errs = append(errs, err)
		} else {
			reservations = append(reservations, h)
		}
		b.byTask[task] = append(b.byTask[task], p)
	}
	return reservations, errors.Join(errs...)
}

func (b *portAllocator) release(task string) { delete(b.byTask, task) }

// holder returns the task with a port that overlaps p.
func (b *portAllocator) holder(p Port) (string, bool) {
	for task, ports := range b.byTask {
		for _, o := range ports {
			if o.overlaps(p) {
				return task, true
			}
		}
	}
	return "", false
}

// choose searches the range from the last choice on and wraps around, so that a port which was just
// released is chosen last.
func (b *portAllocator) choose(p Port) (Port, *hostport.Reservation, error) {
	for range int(b.last-b.first) + 1 {
		b.cursor++
		if b.cursor > b.last || b.cursor < b.first {
			b.cursor = b.first
		}
		p.Published = b.cursor
		h, err := b.bind(p)
		if err == nil {
			return p, h, nil
		}
		if !errdefs.IsAlreadyExists(err) {
			return p, nil, err
		}
	}
	return p, nil, fmt.Errorf("every %s port from %d to %d is in use on this host: %w",
		p.Protocol, b.first, b.last, errdefs.ErrResourceExhausted)
}

// bind reserves a port on the host, unless a task has it already.
func (b *portAllocator) bind(p Port) (*hostport.Reservation, error) {
	if task, ok := b.holder(p); ok {
		return nil, fmt.Errorf("port %s is published by task %s on this host: %w", p, task, errdefs.ErrAlreadyExists)
	}
	return hostport.Reserve(p.Protocol, p.HostIP, p.Published)
}
