package service

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"swarm/cli/flag"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// addTo adds the values to a specification. A value replaces the one with the same key.
func (l *lists) addTo(s *swarmv1.ServiceSpec) error {
	t := s.TaskTemplate
	c := t.ContainerSpec
	targets := map[string]bool{}
	// A mount may replace one that the service has, but not another one of the command line.
	for _, m := range l.mounts.Values {
		target := path.Clean(m.Target)
		if targets[target] {
			return usage.Invalidf("mount target %q is used twice: mount one thing there", target)
		}
		targets[target] = true
	}
	if err := errors.Join(distinctTargets("secret", l.secrets.Values), distinctTargets("config", l.configs.Values)); err != nil {
		return err
	}
	named := map[string]bool{}
	for _, n := range l.networks.Values {
		if named[n.Target] {
			return usage.Invalidf("network %s is named twice: name each network once", n.Target)
		}
		named[n.Target] = true
	}
	l.addContainer(c)
	s.Labels = flag.AddPairs(s.Labels, l.labels.Values)
	for _, n := range l.networks.Values {
		t.Networks = replace(t.Networks, n, func(a, b *swarmv1.NetworkAttachmentConfig) bool { return a.Target == b.Target })
	}
	if len(l.constraints.Values) > 0 {
		p := placementOf(t)
		for _, constraint := range l.constraints.Values {
			p.Constraints = appendNew(p.Constraints, constraint)
		}
	}
	if len(l.prefs.Values) > 0 {
		p := placementOf(t)
		p.Preferences = append(p.Preferences, l.prefs.Values...)
	}
	if len(l.generic.Values) > 0 {
		r := reservationsOf(t)
		for _, g := range l.generic.Values {
			r.Generic = replace(r.Generic, g, func(a, b *swarmv1.GenericResource) bool { return a.Kind == b.Kind && a.Named == b.Named })
		}
	}
	for _, ports := range l.ports.Values {
		e := endpointOf(s)
		for _, p := range ports {
			if slices.ContainsFunc(e.Ports, p.EqualVT) {
				continue
			}
			e.Ports = append(e.Ports, p)
		}
	}
	return nil
}

// distinctTargets refuses two secrets or configs of one command line with the same target. One of
// them may replace a reference that the service has.
func distinctTargets(word string, refs []*swarmv1.DataReference) error {
	taken := map[string]bool{}
	for _, ref := range refs {
		if taken[ref.GetFile().GetName()] {
			return usage.Invalidf("%s target %q is used twice: give each %s another target", word, ref.GetFile().GetName(), word)
		}
		taken[ref.GetFile().GetName()] = true
	}
	return nil
}

func (l *lists) addContainer(c *swarmv1.ContainerSpec) {
	c.CapabilityAdd, c.CapabilityDrop = addCapabilities(c.CapabilityAdd, c.CapabilityDrop, l.capAdd.Values, l.capDrop.Values)
	c.Labels = flag.AddPairs(c.Labels, l.containerLabels.Values)
	c.Sysctls = flag.AddPairs(c.Sysctls, l.sysctls.Values)
	for _, g := range l.groups.Values {
		c.Groups = appendNew(c.Groups, g)
	}
	for _, h := range l.hosts.Values {
		host, ip, _ := flag.ParseExtraHost(h) // It was checked when the flag was read.
		c.Hosts = appendNew(c.Hosts, ip+" "+host)
	}
	if len(l.dns.Values)+len(l.dnsOptions.Values)+len(l.dnsSearch.Values) > 0 {
		if c.DnsConfig == nil {
			c.DnsConfig = &swarmv1.DNSConfig{}
		}
		c.DnsConfig.Nameservers = appendNew(c.DnsConfig.Nameservers, l.dns.Values...)
		c.DnsConfig.Options = appendNew(c.DnsConfig.Options, l.dnsOptions.Values...)
		c.DnsConfig.Search = appendNew(c.DnsConfig.Search, l.dnsSearch.Values...)
	}
	for _, m := range l.mounts.Values {
		c.Mounts = replace(c.Mounts, m, func(a, b *swarmv1.Mount) bool { return a.Target == b.Target })
	}
	for _, s := range l.secrets.Values {
		c.Secrets = replace(c.Secrets, s, func(a, b *swarmv1.DataReference) bool { return a.File.GetName() == b.File.GetName() })
	}
	for _, s := range l.configs.Values {
		c.Configs = replace(c.Configs, s, func(a, b *swarmv1.DataReference) bool { return a.File.GetName() == b.File.GetName() })
	}
	for _, u := range l.ulimits.Values {
		c.Ulimits = replace(c.Ulimits, u, func(a, b *swarmv1.Ulimit) bool { return a.Name == b.Name })
	}
	for _, d := range l.devices.Values {
		c.Devices = replace(c.Devices, d, func(a, b *swarmv1.DeviceMapping) bool { return a.PathInContainer == b.PathInContainer })
	}
}

// replace puts v in the place of the value with the same key, or at the end.
func replace[T any](list []T, v T, same func(a, b T) bool) []T {
	if i := slices.IndexFunc(list, func(old T) bool { return same(old, v) }); i >= 0 {
		list[i] = v
		return list
	}
	return append(list, v)
}

func appendNew(list []string, values ...string) []string {
	for _, v := range values {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// addCapabilities returns the lists of capabilities with add and drop applied. Each capability is
// in at most one list: dropping one that was added removes it from the added ones, and the other
// way round, as in Docker. Names are those of the kernel, such as CAP_NET_ADMIN.
func addCapabilities(added, dropped, add, drop []string) (newAdded, newDropped []string) {
	take := func(from, to []string, names []string) ([]string, []string) {
		for _, name := range names {
			name = capability(name)
			if i := slices.Index(from, name); i >= 0 {
				from = slices.Delete(from, i, i+1)
				continue
			}
			to = appendNew(to, name)
		}
		return from, to
	}
	// On one command line adding wins over dropping, as in Docker.
	drop = slices.DeleteFunc(slices.Clone(drop), func(d string) bool {
		return slices.ContainsFunc(add, func(a string) bool { return capability(a) == capability(d) })
	})
	dropped, added = take(dropped, added, add)
	added, dropped = take(added, dropped, drop)
	return added, dropped
}

func capability(name string) string {
	name = strings.ToUpper(name)
	if name == "ALL" || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// takeFrom removes the values that the flags --*-rm name. As in Docker, it is no error if the
// service does not have a value; idle then has a warning.
func (r removals) takeFrom(s *swarmv1.ServiceSpec) (idle []string, err error) {
	for _, rm := range removalHelp {
		for _, value := range r[rm.name].Values {
			before := s.CloneVT()
			if err := (removals{rm.name: {Values: []string{value}}}).take(s); err != nil {
				return nil, err
			}
			if s.EqualVT(before) {
				idle = append(idle, fmt.Sprintf("--%s %s removes nothing: service %s does not have it", rm.name, value, s.GetName()))
			}
		}
	}
	return idle, nil
}

// of returns the values of a flag, nil if it was not given.
func (r removals) of(flag string) []string {
	if l := r[flag]; l != nil {
		return l.Values
	}
	return nil
}

func (r removals) take(s *swarmv1.ServiceSpec) error {
	t := s.TaskTemplate
	c := t.ContainerSpec
	if err := r.ports(s); err != nil {
		return err
	}
	r.container(c)
	for _, key := range r.of("label-rm") {
		delete(s.Labels, key)
	}
	t.Networks = without(t.Networks, r.of("network-rm"), func(n *swarmv1.NetworkAttachmentConfig) string { return n.Target })
	if p := t.Placement; p != nil {
		p.Constraints = without(p.Constraints, r.of("constraint-rm"), itself)
		p.Preferences = without(p.Preferences, r.of("placement-pref-rm"), func(p *swarmv1.PlacementPreference) string {
			return "spread=" + p.GetSpread().GetSpreadDescriptor()
		})
	}
	if res := t.GetResources().GetReservations(); res != nil {
		res.Generic = without(res.Generic, r.of("generic-resource-rm"), func(g *swarmv1.GenericResource) string { return g.Kind })
	}
	return nil
}

func (r removals) container(c *swarmv1.ContainerSpec) {
	for _, key := range r.of("container-label-rm") {
		delete(c.Labels, key)
	}
	for _, key := range r.of("sysctl-rm") {
		delete(c.Sysctls, key)
	}
	c.Env = without(c.Env, r.of("env-rm"), func(e string) string { return e[:len(e)-len(afterEqual(e))] })
	c.Groups = without(c.Groups, r.of("group-rm"), itself)
	c.Hosts = withoutHosts(c.Hosts, r.of("host-rm"))
	if d := c.DnsConfig; d != nil {
		d.Nameservers = without(d.Nameservers, r.of("dns-rm"), itself)
		d.Options = without(d.Options, r.of("dns-option-rm"), itself)
		d.Search = without(d.Search, r.of("dns-search-rm"), itself)
	}
	c.Mounts = without(c.Mounts, r.of("mount-rm"), func(m *swarmv1.Mount) string { return m.Target })
	c.Secrets = without(c.Secrets, r.of("secret-rm"), func(s *swarmv1.DataReference) string { return s.Name })
	c.Configs = without(c.Configs, r.of("config-rm"), func(s *swarmv1.DataReference) string { return s.Name })
	c.Ulimits = without(c.Ulimits, r.of("ulimit-rm"), func(u *swarmv1.Ulimit) string { return u.Name })
	c.Devices = without(c.Devices, r.of("device-rm"), func(d *swarmv1.DeviceMapping) string { return d.PathInContainer })
}

func itself(s string) string { return s }

// afterEqual returns "=value" of "name=value", "" if there is no "=".
func afterEqual(s string) string {
	if i := strings.IndexByte(s, '='); i >= 0 {
		return s[i:]
	}
	return ""
}

func without[T any](list []T, keys []string, key func(T) string) []T {
	if len(keys) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(v T) bool { return slices.Contains(keys, key(v)) })
}

// withoutHosts removes entries HOST:IP, or all addresses of a HOST.
func withoutHosts(hosts, remove []string) []string {
	for _, r := range remove {
		host, ip, err := flag.ParseExtraHost(r)
		hosts = slices.DeleteFunc(hosts, func(line string) bool {
			words := strings.Fields(line)
			if err != nil {
				return len(words) > 1 && words[1] == r
			}
			return len(words) > 1 && words[0] == ip && words[1] == host
		})
	}
	return hosts
}

// ports removes published ports. A value of --publish-rm is a target port, with or without a
// protocol, or PUBLISHED:TARGET.
func (r removals) ports(s *swarmv1.ServiceSpec) error {
	for _, text := range r.of("publish-rm") {
		wanted, err := flag.ParsePorts(text)
		if err != nil {
			return usage.Invalidf("--publish-rm %s: %s", text, err)
		}
		for _, w := range wanted {
			if s.EndpointSpec == nil {
				return nil
			}
			s.EndpointSpec.Ports = slices.DeleteFunc(s.EndpointSpec.Ports, func(p *swarmv1.PortConfig) bool {
				return p.TargetPort == w.TargetPort && p.Protocol == w.Protocol && (w.PublishedPort == 0 || w.PublishedPort == p.PublishedPort)
			})
		}
	}
	return nil
}
