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
	// HostIP limits the port to one address of the host; the zero value is all.
	HostIP netip.Addr
	// Published on the host; 0 lets the node choose.
	Published uint16
	// Target in the container.
	Target uint16
	// Protocol is "tcp", "udp" or "sctp"; empty is tcp.
	Protocol string
}

func (p Port) String() string {
	s := strconv.Itoa(int(p.Published)) + "/" + p.Protocol
	if p.HostIP.IsValid() {
		s = p.HostIP.String() + ":" + s
	}
	return s
}

// overlaps is true when no host can serve both.
func (p Port) overlaps(o Port) bool {
	return p.Published == o.Published && p.Protocol == o.Protocol &&
		(!p.HostIP.IsValid() || !o.HostIP.IsValid() || p.HostIP == o.HostIP)
}

func validTaskID(id string) error {
	if id == "" || strings.ContainsAny(id, "/\x00") || id == "." || id == ".." {
		return fmt.Errorf("task id %q cannot name a file: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validate also fills in the default protocol.
func (a *Attachment) validate() error {
	if err := validTaskID(a.TaskID); err != nil {
		return err
	}
	if a.Isolated && len(a.Ports) > 0 {
		return fmt.Errorf("task %s has no network to publish a port of: %w", a.TaskID, errdefs.ErrInvalidArgument)
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

// portBook knows which task has which port.
type portBook struct {
	first, last, cursor uint16
	taken               map[string][]Port
}

func newPortBook(first, last uint16) *portBook {
	return &portBook{first: first, last: last, cursor: last, taken: make(map[string][]Port)}
}

// hold takes all of a task's ports or none, and chooses those that are 0.
func (b *portBook) hold(task string, wanted []Port) (ports []Port, holds []*hostport.Held, err error) {
	defer func() {
		if err != nil {
			for _, h := range holds {
				err = errors.Join(err, h.Close())
			}
			b.drop(task)
			ports, holds = nil, nil
		}
	}()
	// The fixed ones first, or a chosen one could be in their way.
	ports = append(ports, wanted...)
	for _, chosen := range []bool{false, true} {
		for i, p := range wanted {
			if (p.Published == 0) != chosen {
				continue
			}
			var h *hostport.Held
			if chosen {
				ports[i], h, err = b.choose(p)
			} else {
				h, err = b.bind(p)
			}
			if err != nil {
				return
			}
			holds = append(holds, h)
			b.taken[task] = append(b.taken[task], ports[i])
		}
	}
	return
}

// reclaim holds ports that a task had before this process began. What cannot be
// held is reported; the task keeps the port in the book.
func (b *portBook) reclaim(task string, ports []Port) ([]*hostport.Held, error) {
	var holds []*hostport.Held
	var errs []error
	for _, p := range ports {
		h, err := b.bind(p)
		if err != nil {
			errs = append(errs, err)
		} else {
			holds = append(holds, h)
		}
		b.taken[task] = append(b.taken[task], p)
	}
	return holds, errors.Join(errs...)
}

func (b *portBook) drop(task string) { delete(b.taken, task) }

func (b *portBook) holder(p Port) (string, bool) {
	for task, ports := range b.taken {
		for _, o := range ports {
			if o.overlaps(p) {
				return task, true
			}
		}
	}
	return "", false
}

// choose goes round the range, so that a freed port comes up last.
func (b *portBook) choose(p Port) (Port, *hostport.Held, error) {
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

func (b *portBook) bind(p Port) (*hostport.Held, error) {
	if task, ok := b.holder(p); ok {
		return nil, fmt.Errorf("port %s is published by task %s on this host: %w", p, task, errdefs.ErrAlreadyExists)
	}
	return hostport.Hold(p.Protocol, p.HostIP, p.Published)
}
