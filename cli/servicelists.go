package cli

import (
	"slices"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// addTo adds the values to a spec; a value with the key of one that is there takes its place.
func (l *serviceLists) addTo(s *swarmv1.ServiceSpec) error {
	t := s.TaskTemplate
	c := t.ContainerSpec
	l.addContainer(c)
	s.Labels = addPairs(s.Labels, l.labels.values)
	for _, n := range l.networks.values {
		t.Networks = replace(t.Networks, n, func(a, b *swarmv1.NetworkAttachmentConfig) bool { return a.Target == b.Target })
	}
	if len(l.constraints.values) > 0 {
		p := placementOf(t)
		for _, constraint := range l.constraints.values {
			p.Constraints = appendNew(p.Constraints, constraint)
		}
	}
	if len(l.prefs.values) > 0 {
		p := placementOf(t)
		p.Preferences = append(p.Preferences, l.prefs.values...)
	}
	if len(l.generic.values) > 0 {
		r := reservationsOf(t)
		for _, g := range l.generic.values {
			r.Generic = replace(r.Generic, g, func(a, b *swarmv1.GenericResource) bool { return a.Kind == b.Kind && a.Named == b.Named })
		}
	}
	for _, ports := range l.ports.values {
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

func (l *serviceLists) addContainer(c *swarmv1.ContainerSpec) {
	c.CapabilityAdd, c.CapabilityDrop = addCapabilities(c.CapabilityAdd, c.CapabilityDrop, l.capAdd.values, l.capDrop.values)
	c.Labels = addPairs(c.Labels, l.containerLabels.values)
	c.Sysctls = addPairs(c.Sysctls, l.sysctls.values)
	for _, g := range l.groups.values {
		c.Groups = appendNew(c.Groups, g)
	}
	for _, h := range l.hosts.values {
		host, ip, _ := extraHost(h) // checked when the flag was read
		c.Hosts = appendNew(c.Hosts, ip+" "+host)
	}
	if len(l.dns.values)+len(l.dnsOptions.values)+len(l.dnsSearch.values) > 0 {
		if c.DnsConfig == nil {
			c.DnsConfig = &swarmv1.DNSConfig{}
		}
		c.DnsConfig.Nameservers = appendNew(c.DnsConfig.Nameservers, l.dns.values...)
		c.DnsConfig.Options = appendNew(c.DnsConfig.Options, l.dnsOptions.values...)
		c.DnsConfig.Search = appendNew(c.DnsConfig.Search, l.dnsSearch.values...)
	}
	for _, m := range l.mounts.values {
		c.Mounts = replace(c.Mounts, m, func(a, b *swarmv1.Mount) bool { return a.Target == b.Target })
	}
	for _, s := range l.secrets.values {
		c.Secrets = replace(c.Secrets, s, func(a, b *swarmv1.SecretReference) bool { return a.File.GetName() == b.File.GetName() })
	}
	for _, s := range l.configs.values {
		c.Configs = replace(c.Configs, s, func(a, b *swarmv1.ConfigReference) bool { return a.File.GetName() == b.File.GetName() })
	}
	for _, u := range l.ulimits.values {
		c.Ulimits = replace(c.Ulimits, u, func(a, b *swarmv1.Ulimit) bool { return a.Name == b.Name })
	}
	for _, d := range l.devices.values {
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

func addPairs(m map[string]string, pairs []string) map[string]string {
	for _, p := range pairs {
		if m == nil {
			m = map[string]string{}
		}
		k, v := keyValue(p)
		m[k] = v
	}
	return m
}

// addCapabilities keeps every capability in at most one of the lists: dropping what was added takes it back, and the other
// way round, as Docker does. Names are written as the kernel's: CAP_NET_ADMIN.
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

// takeFrom removes what the --*-rm flags name; removing what is not there is no error, as in Docker.
func (r removals) takeFrom(s *swarmv1.ServiceSpec) error {
	t := s.TaskTemplate
	c := t.ContainerSpec
	if err := r.ports(s); err != nil {
		return err
	}
	r.container(c)
	for _, key := range r["label-rm"].values {
		delete(s.Labels, key)
	}
	t.Networks = without(t.Networks, r["network-rm"].values, func(n *swarmv1.NetworkAttachmentConfig) string { return n.Target })
	if p := t.Placement; p != nil {
		p.Constraints = without(p.Constraints, r["constraint-rm"].values, itself)
		p.Preferences = without(p.Preferences, r["placement-pref-rm"].values, func(p *swarmv1.PlacementPreference) string {
			return "spread=" + p.GetSpread().GetSpreadDescriptor()
		})
	}
	if res := t.GetResources().GetReservations(); res != nil {
		res.Generic = without(res.Generic, r["generic-resource-rm"].values, func(g *swarmv1.GenericResource) string { return g.Kind })
	}
	return nil
}

func (r removals) container(c *swarmv1.ContainerSpec) {
	for _, key := range r["container-label-rm"].values {
		delete(c.Labels, key)
	}
	for _, key := range r["sysctl-rm"].values {
		delete(c.Sysctls, key)
	}
	c.Env = without(c.Env, r["env-rm"].values, func(e string) string { return e[:len(e)-len(afterEqual(e))] })
	c.Groups = without(c.Groups, r["group-rm"].values, itself)
	c.Hosts = withoutHosts(c.Hosts, r["host-rm"].values)
	if d := c.DnsConfig; d != nil {
		d.Nameservers = without(d.Nameservers, r["dns-rm"].values, itself)
		d.Options = without(d.Options, r["dns-option-rm"].values, itself)
		d.Search = without(d.Search, r["dns-search-rm"].values, itself)
	}
	c.Mounts = without(c.Mounts, r["mount-rm"].values, func(m *swarmv1.Mount) string { return m.Target })
	c.Secrets = without(c.Secrets, r["secret-rm"].values, func(s *swarmv1.SecretReference) string { return s.SecretName })
	c.Configs = without(c.Configs, r["config-rm"].values, func(s *swarmv1.ConfigReference) string { return s.ConfigName })
	c.Ulimits = without(c.Ulimits, r["ulimit-rm"].values, func(u *swarmv1.Ulimit) string { return u.Name })
	c.Devices = without(c.Devices, r["device-rm"].values, func(d *swarmv1.DeviceMapping) string { return d.PathInContainer })
}

func itself(s string) string { return s }

// afterEqual is "=value" of "name=value".
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

// withoutHosts takes host:ip, or a host alone for all of its addresses.
func withoutHosts(hosts, remove []string) []string {
	for _, r := range remove {
		host, ip, err := extraHost(r)
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

// ports removes published ports by target port, with or without protocol, or by published:target.
func (r removals) ports(s *swarmv1.ServiceSpec) error {
	for _, text := range r["publish-rm"].values {
		wanted, err := parsePorts(text)
		if err != nil {
			return invalid("--publish-rm %s: %s", text, err)
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
