//go:build linux

package dev

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/overlay/vswitch"
)

// Cut describes which packets are dropped. With one host these are all packets from and to the
// host. With two hosts these are the packets between them, in both directions. The second host may
// be Machine.
type Cut struct {
	Hosts []string
	// Port limits the cut to TCP and UDP packets to a port. 0 cuts all packets.
	Port uint16
	// Protocol limits the cut of a port to "tcp" or "udp".
	Protocol string
	// OneWay limits the cut to packets from the first host (to the second).
	OneWay bool
}

func (c Cut) validate() error {
	switch {
	case len(c.Hosts) < 1 || len(c.Hosts) > 2:
		return errdefs.ErrInvalidArgument.WithMessage("name one host to cut off, or two to part")
	case c.Port == 0 && c.Protocol != "":
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("protocol %s is given without a port: add --port", c.Protocol))
	case len(c.Hosts) == 2 && c.Hosts[0] == c.Hosts[1]:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("host %s cannot be parted from itself: name two hosts", c.Hosts[0]))
	}
	return nil
}

// cable reports whether the cut unplugs the cable of a host.
func (c Cut) cable() bool { return len(c.Hosts) == 1 && c.Port == 0 && !c.OneWay }

// faults translates the cut for the switch.
func (c Cut) faults() []vswitch.Fault {
	to := ""
	if len(c.Hosts) == 2 {
		to = c.Hosts[1]
	}
	protocols := []string{c.Protocol}
	if c.Port != 0 && c.Protocol == "" {
		protocols = []string{"tcp", "udp"}
	}
	var out []vswitch.Fault
	for _, proto := range protocols {
		out = append(out, vswitch.Fault{From: c.Hosts[0], To: to, Protocol: proto, Port: c.Port})
		if !c.OneWay {
			out = append(out, vswitch.Fault{From: to, To: c.Hosts[0], Protocol: proto, Port: c.Port})
		}
	}
	return out
}

// Cut adds a cut. Former cuts stay.
func (p *Playground) Cut(c Cut) error {
	if err := c.validate(); err != nil {
		return err
	}
	return p.change(c.Hosts[0], func(r *record, lab *Lab, h *hostRecord) error {
		if len(c.Hosts) == 2 && c.Hosts[1] != Machine {
			if _, err := r.host(c.Hosts[1]); err != nil {
				return err
			}
		}
		if c.cable() {
			h.Unplugged = true
			if h.Off {
				return nil
			}
			return lab.SetCable(h.Name, false)
		}
		for _, f := range c.faults() {
			if !slices.Contains(r.Faults, f) {
				r.Faults = append(r.Faults, f)
			}
		}
		return r.applyFaults(lab)
	})
}

// Heal removes every cut that names one of the hosts, or all cuts if no host is given.
func (p *Playground) Heal(hosts ...string) error {
	return p.edit(func(r *record, lab *Lab) error {
		for _, name := range hosts {
			if _, err := r.host(name); err != nil {
				return err
			}
		}
		named := func(name string) bool { return len(hosts) == 0 || slices.Contains(hosts, name) }
		r.Faults = slices.DeleteFunc(r.Faults, func(f vswitch.Fault) bool { return named(f.From) || named(f.To) })
		if err := r.applyFaults(lab); err != nil {
			return err
		}
		for i := range r.Hosts {
			h := &r.Hosts[i]
			if !h.Unplugged || !named(h.Name) {
				continue
			}
			if !h.Off {
				if err := lab.SetCable(h.Name, true); err != nil {
					return err
				}
			}
			h.Unplugged = false
		}
		return nil
	})
}

// applyFaults programs the faults between hosts that are on the switch. The faults of a host that
// is off are programmed when the host is turned on again.
func (r *record) applyFaults(lab *Lab) error {
	off := func(name string) bool {
		h, err := r.host(name)
		return err == nil && h.Off
	}
	var now []vswitch.Fault
	for _, f := range r.Faults {
		if !off(f.From) && !off(f.To) {
			now = append(now, f)
		}
	}
	return lab.SetFaults(now...)
}
