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

// zone has the names of one network. Names are in lower case, without a dot at the end.
type zone struct {
	name     string
	subnets  []netip.Prefix
	services map[string]*service
	names    map[string][]nameEntry
	reverse  map[netip.Addr]string
}

// nameEntry is one meaning of a name. A name may have several.
type nameEntry struct {
	service *service
	// task is nil for the service as a whole.
	task *task
	// isTaskName means that the name is the task's own name. It resolves even if the task takes no
	// new connections.
	isTaskName bool
	// isHostname means that the name is the hostname of the task's container. It is ignored if a
	// service, alias or task has the same name.
	isHostname bool
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

// lookup is the result of looking a name up.
type lookup struct {
	addresses []netip.Addr
	targets   []srvTarget
}

// noNetwork is the index that stands for no network.
const noNetwork = -1

// srvTarget is one result of a query for a service's port.
type srvTarget struct {
	name      string
	port      uint16
	addresses []netip.Addr
}

func newZone() *zone {
	return &zone{services: make(map[string]*service), names: make(map[string][]nameEntry), reverse: make(map[netip.Addr]string)}
}

func (z *zone) setNetwork(n *swarmv1.ResolverNetwork) error {
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

// setService replaces a service. It removes the service if s is nil.
func (z *zone) setService(id string, s *service) {
	if old := z.services[id]; old != nil {
		z.updateIndex(old, false)
		delete(z.services, id)
	}
	if s != nil {
		z.services[id] = s
		z.updateIndex(s, true)
	}
}

func (z *zone) updateIndex(s *service, add bool) {
	updateName := func(name string, o nameEntry) {
		if add {
			z.names[name] = append(z.names[name], o)
			return
		}
		z.names[name] = slices.DeleteFunc(z.names[name], func(have nameEntry) bool { return have.service == s })
		if len(z.names[name]) == 0 {
			delete(z.names, name)
		}
	}
	updateAddress := func(a netip.Addr, name string) {
		if add {
			z.reverse[a] = name
		} else if z.reverse[a] == name {
			delete(z.reverse, a)
		}
	}
	for _, name := range unique(s.name, s.aliases) {
		updateName(name, nameEntry{service: s})
	}
	for _, a := range s.vips {
		updateAddress(a, s.name)
	}
	for i := range s.tasks {
		t := &s.tasks[i]
		updateName(t.name, nameEntry{service: s, task: t, isTaskName: true})
		for _, alias := range unique("", t.aliases) {
			updateName(alias, nameEntry{service: s, task: t})
		}
		if t.hostname != "" {
			updateName(t.hostname, nameEntry{service: s, task: t, isHostname: true})
		}
		for _, a := range t.addresses {
			updateAddress(a, t.name)
		}
	}
}

// unique returns the names sorted, without duplicates and empty names.
func unique(first string, more []string) []string {
	all := append([]string{first}, more...)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(s string) bool { return s == "" })
}

// find looks a name up. ok reports whether the name exists; an existing name may have no addresses
// now.
func (z *zone) find(name string) (result lookup, ok bool) {
	if strings.HasPrefix(name, "_") {
		return z.findSRV(name)
	}
	if entries, ok := z.names[name]; ok {
		return lookup{addresses: addressesOf(entries)}, true
	}
	first, rest, _ := strings.Cut(name, ".")
	var all []netip.Addr
	known := false
	slot, err := strconv.ParseUint(first, 10, 64)
	for _, o := range z.names[rest] {
		switch {
		case o.task != nil:
		case first == "tasks":
			known, all = true, append(all, o.service.readyAddresses()...)
		case err == nil && slot > 0 && o.service.hasSlot(slot):
			known, all = true, append(all, o.service.slotAddresses(slot)...)
		}
	}
	return lookup{addresses: all}, known
}

func addressesOf(entries []nameEntry) []netip.Addr {
	var all []netip.Addr
	onlyHostnames := true
	for _, o := range entries {
		onlyHostnames = onlyHostnames && o.isHostname
		switch {
		case o.isHostname:
		case o.task == nil:
			all = append(all, o.service.addresses()...)
		case o.isTaskName || o.task.ready:
			all = append(all, o.task.addresses...)
		}
	}
	if onlyHostnames {
		all = hostnameAddresses(entries)
	}
	if len(entries) > 1 {
		slices.SortFunc(all, netip.Addr.Compare)
		all = slices.Compact(all)
	}
	return all
}

// hostnameAddresses returns the addresses of the ready containers with the same hostname. If none
// is ready, it returns the addresses of all of them, because some containers must find each other
// before they become ready.
func hostnameAddresses(entries []nameEntry) []netip.Addr {
	var ready, all []netip.Addr
	for _, o := range entries {
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

// addresses returns the addresses of the service's own name.
func (s *service) addresses() []netip.Addr {
	if len(s.vips) > 0 {
		return s.vips
	}
	return s.readyAddresses()
}

func (s *service) readyAddresses() []netip.Addr {
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

// slotAddresses returns the addresses of the tasks in the slot: of those that are ready, or of all
// if none is ready. There are two tasks while one replaces the other.
func (s *service) slotAddresses(slot uint64) []netip.Addr {
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

// findSRV looks up _port._protocol.service. The target is the service if it has a virtual IP, else
// each ready task. The targets of _port._protocol.tasks.service are always the tasks.
func (z *zone) findSRV(name string) (lookup, bool) {
	portName, rest, _ := strings.Cut(name, ".")
	protocol, rest, ok := strings.Cut(rest, ".")
	if !ok || !strings.HasPrefix(protocol, "_") {
		return lookup{}, false
	}
	base, each := strings.CutPrefix(rest, "tasks.")
	var out lookup
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
				out.targets = append(out.targets, srvTarget{name: base, port: p.number, addresses: o.service.vips})
				continue
			}
			for _, t := range o.service.tasks {
				if t.ready {
					out.targets = append(out.targets, srvTarget{name: t.name, port: p.number, addresses: t.addresses})
				}
			}
		}
	}
	return out, known
}

// nameOf returns the name of an address, followed by the network's name.
func (z *zone) nameOf(a netip.Addr) (string, bool) {
	name, ok := z.reverse[a]
	if !ok || z.name == "" {
		return name, ok
	}
	return name + "." + z.name, true
}

// containsAddress reports whether an address is in a subnet of the network.
func (z *zone) containsAddress(a netip.Addr) bool {
	return slices.ContainsFunc(z.subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseService converts a service of an update.
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

// shuffled returns the addresses of one family in random order.
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
