//go:build linux

package resolve

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	swarmv1 "swarm/proto/swarm/v1"
)

// ttl of our own records, in seconds. A question costs microseconds, so remembering an answer saves nothing; whoever
// does follows a change within a second. Zero has surprised clients.
const ttl = 1

const (
	// maxUDP is the largest answer that goes out as a datagram, to clients that say they take it.
	maxUDP = 4096
	minUDP = dns.MinMsgSize
)

// names is all zones. Not for several goroutines: the server's lock guards it.
type names map[string]*zone

// find looks for a name on the networks in turn, and tells which of them has it: the first that does answers, nowhere when
// none does. NAME.NETWORK is sought there only.
func (n names) find(networks []string, name string) (found, int) {
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
	return found{}, nowhere
}

// local answers from what the container may know, or returns nil: the question is for others. It tells which of the
// container's networks the answer is from.
func (n names) local(c *swarmv1.ResolverContainer, req *dns.Msg) (*dns.Msg, int) {
	q := req.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if ip, ok := reverseName(name); ok {
		return n.pointer(c, req, ip)
	}
	f, network := n.find(c.NetworkIds, name)
	if network == nowhere {
		return unknown(c, req, name), nowhere
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
		for _, t := range f.services {
			target := dns.Fqdn(t.name)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 1, Port: t.port, Target: target})
			m.Extra = appendAddresses(appendAddresses(m.Extra, target, t.addresses, false), target, t.addresses, true)
		}
	}
	return m, network
}

// unknown is what becomes of a name that nobody has. As in Docker's, one without a dot is passed on like any other, so that
// hosts of the site are found, unless the container's resolv.conf sets ndots; and so is NAME.NETWORK: a network may be
// called as a domain is.
func unknown(c *swarmv1.ResolverContainer, req *dns.Msg, name string) *dns.Msg {
	kind := req.Question[0].Qtype
	switch {
	case closed(c):
		return reply(req, dns.RcodeNameError)
	case c.SearchFirst && !strings.Contains(name, ".") && (kind == dns.TypeA || kind == dns.TypeAAAA):
		return reply(req, dns.RcodeSuccess)
	}
	return nil
}

// closed: nobody may be asked for the container. Name servers of its own are asked from inside its namespace, which
// reaches no more than itself does.
func closed(c *swarmv1.ResolverContainer) bool { return c.Internal && len(c.Upstreams) == 0 }

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

// pointer answers for addresses of the container's networks, whether somebody has them or not.
func (n names) pointer(c *swarmv1.ResolverContainer, req *dns.Msg, ip netip.Addr) (*dns.Msg, int) {
	ours, network := closed(c), nowhere
	for i, id := range c.NetworkIds {
		z := n[id]
		if z == nil {
			continue
		}
		if network == nowhere && z.covers(ip) {
			ours, network = true, i
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
	if ours {
		return reply(req, dns.RcodeNameError), network
	}
	return nil, nowhere
}

// reverseName parses 4.3.2.1.in-addr.arpa and its IPv6 kin.
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

// refused is the answer to what is no question to us, nil when it is one. A message that is no question at all gets none.
func refused(req *dns.Msg) *dns.Msg {
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

// pack cuts the answer to what the client takes; one that is cut is asked for again over TCP.
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
