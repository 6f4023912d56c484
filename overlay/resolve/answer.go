//go:build linux

package resolve

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	swarmv1 "swarm/proto/swarm/v1"
)

// ttl is the lifetime of the server's own records in seconds. A query costs microseconds, so a
// client saves nothing with a longer lifetime, and with this one it follows a change within a
// second. Some clients do not handle zero.
const ttl = 1

const (
	// maxUDP and minUDP are the limits in bytes for an answer over UDP. The client's EDNS size
	// applies between them.
	maxUDP = 4096
	minUDP = dns.MinMsgSize
)

// zones maps network IDs to zones. It is not safe for concurrent use; Server.mu guards it.
type zones map[string]*zone

// find looks a name up on the networks in order. It returns the result and the index of the first
// network that has the name, or noNetwork. If no network has a name of the form NAME.NETWORK, find
// looks NAME up on that network only.
func (n zones) find(networks []string, name string) (lookup, int) {
	for i, id := range networks {
		if z := n[id]; z != nil {
			if f, ok := z.find(name); ok {
				return f, i
			}
		}
	}
	for i, id := range networks {
		z := n[id]
		if z == nil || z.name == "" {
			continue
		}
		if base, ok := strings.CutSuffix(name, "."+z.name); ok {
			if f, ok := z.find(base); ok {
				return f, i
			}
		}
	}
	return lookup{}, noNetwork
}

// local answers a query from the zones of the container's networks. It returns nil if the query
// must be forwarded. It also returns the index in c.NetworkIds of the network that answered, or
// noNetwork.
func (n zones) local(c *swarmv1.ResolverContainer, req *dns.Msg) (*dns.Msg, int) {
	q := req.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if ip, ok := reverseName(name); ok {
		return n.reverseLookup(c, req, ip)
	}
	f, network := n.find(c.NetworkIds, name)
	if network == noNetwork {
		return answerUnknown(c, req, name), noNetwork
	}
	m := reply(req, dns.RcodeSuccess)
	m.Authoritative = true
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY {
		m.Answer = appendAddresses(m.Answer, q.Name, f.addresses, false)
	}
	if q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY {
		m.Answer = appendAddresses(m.Answer, q.Name, f.addresses, true)
	}
	if q.Qtype == dns.TypeSRV || q.Qtype == dns.TypeANY {
		for _, t := range f.targets {
			target := dns.Fqdn(t.name)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 1, Port: t.port, Target: target})
			m.Extra = appendAddresses(appendAddresses(m.Extra, target, t.addresses, false), target, t.addresses, true)
		}
	}
	return m, network
}

// answerUnknown answers a query for a name that no zone has. It returns nil if the query must be
// forwarded, as most are. Among them are two that look like names of the cluster:
//   - a name without a dot, as in Docker, because it may be a host of the site; but not with
//     SearchFirst, because the container's resolv.conf then sets ndots
//   - NAME.NETWORK, because a network may have the name of a domain
func answerUnknown(c *swarmv1.ResolverContainer, req *dns.Msg, name string) *dns.Msg {
	kind := req.Question[0].Qtype
	switch {
	case mayNotForward(c):
		return reply(req, dns.RcodeNameError)
	case c.SearchFirst && !strings.Contains(name, ".") && (kind == dns.TypeA || kind == dns.TypeAAAA):
		return reply(req, dns.RcodeSuccess)
	}
	return nil
}

// mayNotForward reports whether the container's queries must not be forwarded, because the
// container may not reach hosts outside its networks. Queries to the name servers that its service
// sets are permitted: they are sent from inside its namespace, which reaches no more than the
// container itself.
func mayNotForward(c *swarmv1.ResolverContainer) bool { return c.Internal && len(c.Upstreams) == 0 }

func appendAddresses(to []dns.RR, name string, addresses []netip.Addr, ipv6 bool) []dns.RR {
	for _, a := range shuffled(addresses, ipv6) {
		if ipv6 {
			to = append(to, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
		} else {
			to = append(to, &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()})
		}
	}
	return to
}

// reverseLookup answers a query for the name of an address. If no network has a name for the
// address, reverseLookup returns nil, so that the query is forwarded. There are two exceptions, for
// which the answer is NXDOMAIN: the address is in a subnet of the container's networks, or the
// query must not be forwarded. The index is as in local.
func (n zones) reverseLookup(c *swarmv1.ResolverContainer, req *dns.Msg, ip netip.Addr) (*dns.Msg, int) {
	authoritative, network := mayNotForward(c), noNetwork
	for i, id := range c.NetworkIds {
		z := n[id]
		if z == nil {
			continue
		}
		if network == noNetwork && z.containsAddress(ip) {
			authoritative, network = true, i
		}
		if name, ok := z.nameOf(ip); ok {
			m := reply(req, dns.RcodeSuccess)
			m.Authoritative = true
			if q := req.Question[0]; q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
				m.Answer = []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: dns.Fqdn(name)}}
			}
			return m, i
		}
	}
	if authoritative {
		return reply(req, dns.RcodeNameError), network
	}
	return nil, noNetwork
}

// reverseName parses names such as 4.3.2.1.in-addr.arpa, and the IPv6 form below ip6.arpa.
func reverseName(name string) (netip.Addr, bool) {
	if base, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(base, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil && a.Is4()
	}
	base, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(base) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 62; i >= 0; i -= 2 {
		text.WriteByte(base[i])
		if i%8 == 0 && i > 0 {
			text.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil && a.Is6()
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func reply(req *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg).SetRcode(req, code)
	m.RecursionAvailable = true
	m.Compress = true
	return m
}

// rejection returns the error answer for a message that is not one standard query of class IN. It
// returns nil for a valid query.
func rejection(req *dns.Msg) *dns.Msg {
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return reply(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		return reply(req, dns.RcodeFormatError)
	case req.Question[0].Qclass != dns.ClassINET:
		return reply(req, dns.RcodeRefused)
	}
	return nil
}

// pack encodes an answer and truncates it to the size that the client accepts. The client repeats a
// truncated query over TCP.
func pack(req, m *dns.Msg, tcp bool) ([]byte, error) {
	size := minUDP
	if opt := req.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), minUDP), maxUDP)
		if m.IsEdns0() == nil {
			m.SetEdns0(maxUDP, opt.Do())
		}
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	return m.Pack()
}
