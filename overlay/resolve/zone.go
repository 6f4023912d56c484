//go:build linux

package resolve

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// zone is what can be asked for on one network. Names are kept in small letters, without a dot at the end.
type zone struct {
	name     string
	subnets  []netip.Prefix
	services map[string]*service
	names    map[string][]owner
	reverse  map[netip.Addr]string
}

// owner is who a name stands for. A name may have several.
type owner struct {
	service *service
	// task is nil for the service as a whole.
	task *task
	// own: it is the task's very own name, which holds even when it takes no new connections.
	own bool
	// host: it is the hostname of the task's container. It stands back behind what services are called.
	host bool
}

type service struct {
	name    string
	aliases []string
	vips    []netip.Addr
	tasks   []task
	ports   []port
}

type task struct {
	name      string
	slot      uint64
	addresses []netip.Addr
	aliases   []string
	hostname  string
	ready     bool
}

type port struct {
	name, protocol string
	number         uint16
}

// found is what a name stands for.
type found struct {
	addresses []netip.Addr
	services  []target
}

// nowhere is the place of a network that there is none of.
const nowhere = -1

// target is an answer to a question for a service's port.
type target struct {
	name      string
	port      uint16
	addresses []netip.Addr
}

func newZone() *zone {
	return &zone{services: make(map[string]*service), names: make(map[string][]owner), reverse: make(map[netip.Addr]string)}
}

func (z *zone) describe(n *swarmv1.ResolverNetwork) error {
	z.name, z.subnets = strings.ToLower(n.Name), nil
	for _, s := range n.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("subnet of network %s: %w: %w", n.Id, err, errdefs.ErrInvalidArgument)
		}
		z.subnets = append(z.subnets, p.Masked())
	}
	return nil
}

// put replaces a service; nil removes it.
func (z *zone) put(id string, s *service) {
	if old := z.services[id]; old != nil {
		z.index(old, false)
		delete(z.services, id)
	}
	if s != nil {
		z.services[id] = s
		z.index(s, true)
	}
}

func (z *zone) index(s *service, enter bool) {
	mark := func(name string, o owner) {
		if enter {
			z.names[name] = append(z.names[name], o)
			return
		}
		z.names[name] = slices.DeleteFunc(z.names[name], func(have owner) bool { return have.service == s })
		if len(z.names[name]) == 0 {
			delete(z.names, name)
		}
	}
	markAddress := func(a netip.Addr, name string) {
		if enter {
			z.reverse[a] = name
		} else if z.reverse[a] == name {
			delete(z.reverse, a)
		}
	}
	for _, name := range unique(s.name, s.aliases) {
		mark(name, owner{service: s})
	}
	for _, a := range s.vips {
		markAddress(a, s.name)
	}
	for i := range s.tasks {
		t := &s.tasks[i]
		mark(t.name, owner{service: s, task: t, own: true})
		for _, alias := range unique("", t.aliases) {
			mark(alias, owner{service: s, task: t})
		}
		if t.hostname != "" {
			mark(t.hostname, owner{service: s, task: t, host: true})
		}
		for _, a := range t.addresses {
			markAddress(a, t.name)
		}
	}
}

// unique lists names once each, empty ones left out.
func unique(first string, more []string) []string {
	all := append([]string{first}, more...)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(s string) bool { return s == "" })
}

// find returns what a name stands for, and whether there is such a name: it may stand for nothing now.
func (z *zone) find(name string) (found, bool) {
	if strings.HasPrefix(name, "_") {
		return z.findPort(name)
	}
	if owners, ok := z.names[name]; ok {
		return found{addresses: addressesOf(owners)}, true
	}
	first, rest, _ := strings.Cut(name, ".")
	var all []netip.Addr
	known := false
	slot, err := strconv.ParseUint(first, 10, 64)
	for _, o := range z.names[rest] {
		switch {
		case o.task != nil:
		case first == "tasks":
			known, all = true, append(all, o.service.ready()...)
		case err == nil && slot > 0 && o.service.hasSlot(slot):
			known, all = true, append(all, o.service.inSlot(slot)...)
		}
	}
	return found{addresses: all}, known
}

func addressesOf(owners []owner) []netip.Addr {
	var all []netip.Addr
	hosts := true // only containers are called so
	for _, o := range owners {
		hosts = hosts && o.host
		switch {
		case o.host:
		case o.task == nil:
			all = append(all, o.service.main()...)
		case o.own || o.task.ready:
			all = append(all, o.task.addresses...)
		}
	}
	if hosts {
		all = ofHosts(owners)
	}
	if len(owners) > 1 {
		slices.SortFunc(all, netip.Addr.Compare)
		all = slices.Compact(all)
	}
	return all
}

// ofHosts prefers containers that are ready, as inSlot does: those that look for each other before they are need an answer.
func ofHosts(owners []owner) []netip.Addr {
	var ready, all []netip.Addr
	for _, o := range owners {
		all = append(all, o.task.addresses...)
		if o.task.ready {
			ready = append(ready, o.task.addresses...)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return all
}

// main is what the service's own name stands for.
func (s *service) main() []netip.Addr {
	if len(s.vips) > 0 {
		return s.vips
	}
	return s.ready()
}

func (s *service) ready() []netip.Addr {
	var all []netip.Addr
	for i := range s.tasks {
		if s.tasks[i].ready {
			all = append(all, s.tasks[i].addresses...)
		}
	}
	return all
}

func (s *service) hasSlot(slot uint64) bool {
	return slices.ContainsFunc(s.tasks, func(t task) bool { return t.slot == slot })
}

// inSlot prefers the task that is ready: while one replaces another there are two.
func (s *service) inSlot(slot uint64) []netip.Addr {
	var ready, all []netip.Addr
	for i := range s.tasks {
		if t := &s.tasks[i]; t.slot == slot {
			all = append(all, t.addresses...)
			if t.ready {
				ready = append(ready, t.addresses...)
			}
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return all
}

// findPort answers _port._protocol.service: with the service when it has an address of its own, else, and for
// _port._protocol.tasks.service, with each ready task.
func (z *zone) findPort(name string) (found, bool) {
	portName, rest, _ := strings.Cut(name, ".")
	protocol, rest, ok := strings.Cut(rest, ".")
	if !ok || !strings.HasPrefix(protocol, "_") {
		return found{}, false
	}
	base, each := strings.CutPrefix(rest, "tasks.")
	var out found
	known := false
	for _, o := range z.names[base] {
		if o.task != nil {
			continue
		}
		for _, p := range o.service.ports {
			if p.protocol != protocol[1:] || (p.name != portName[1:] && strconv.Itoa(int(p.number)) != portName[1:]) {
				continue
			}
			known = true
			if !each && len(o.service.vips) > 0 {
				out.services = append(out.services, target{name: base, port: p.number, addresses: o.service.vips})
				continue
			}
			for _, t := range o.service.tasks {
				if t.ready {
					out.services = append(out.services, target{name: t.name, port: p.number, addresses: t.addresses})
				}
			}
		}
	}
	return out, known
}

// nameOf is the opposite of find, qualified by the network's name.
func (z *zone) nameOf(a netip.Addr) (string, bool) {
	name, ok := z.reverse[a]
	if !ok || z.name == "" {
		return name, ok
	}
	return name + "." + z.name, true
}

// covers tells that an address is of the network, whoever has it.
func (z *zone) covers(a netip.Addr) bool {
	return slices.ContainsFunc(z.subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseService takes a service as it comes from the daemon.
func parseService(in *swarmv1.ResolverService) (*service, error) {
	s := &service{name: strings.ToLower(in.Name), aliases: lower(in.Aliases)}
	var err error
	if s.vips, err = parseAddresses(in.VirtualIps); err != nil {
		return nil, fmt.Errorf("service %s: %w", in.ServiceId, err)
	}
	s.tasks = make([]task, len(in.Tasks))
	for i, t := range in.Tasks {
		s.tasks[i] = task{name: strings.ToLower(t.Name), slot: t.Slot, aliases: lower(t.Aliases), hostname: strings.ToLower(t.Hostname), ready: t.Ready}
		if s.tasks[i].addresses, err = parseAddresses(t.Addresses); err != nil {
			return nil, fmt.Errorf("task %s: %w", t.Name, err)
		}
	}
	for _, p := range in.Ports {
		s.ports = append(s.ports, port{name: strings.ToLower(p.Name), protocol: strings.ToLower(p.Protocol), number: uint16(p.Port)})
	}
	return s, nil
}

func parseAddresses(in []string) ([]netip.Addr, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]netip.Addr, len(in))
	for i, s := range in {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		out[i] = a.Unmap()
	}
	return out, nil
}

func lower(in []string) []string {
	var out []string
	for _, s := range in {
		out = append(out, strings.ToLower(s))
	}
	return out
}

// shuffled returns the addresses of one family in a new order.
func shuffled(in []netip.Addr, ipv6 bool) []netip.Addr {
	out := make([]netip.Addr, 0, len(in))
	for _, a := range in {
		if a.Is6() == ipv6 {
			out = append(out, a)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
