package tasks

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Files of the host from which those of containers are made.
const (
	hostResolvConf = "/etc/resolv.conf"
	// systemdResolvConf has the real name servers if resolv.conf has systemd's stub, which can be
	// reached only in the host's network namespace.
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
	hostHosts         = "/etc/hosts"
)

// etc composes the files in a container's /etc.
type etc struct {
	spec     *swarmv1.ContainerSpec
	hostname string
	attached engine.Attached
	host     bool // in the host's network namespace
}

// resolvConf returns the container's resolv.conf. The service's DNS configuration replaces the
// host's. On an overlay network the overlay's name server is the only one; for other names it asks
// the servers that the service names.
func (e etc) resolvConf() string {
	r := readResolvConf(hostResolvConf)
	if !e.host {
		if r.dropLoopback(); len(r.servers) == 0 {
			if real := readResolvConf(systemdResolvConf); len(real.servers) > 0 {
				r.servers = real.servers
				r.dropLoopback()
			}
		}
	}
	if e.attached.OnOverlay() {
		r.servers = e.attached.Nameservers
	}
	if dns := e.spec.GetDnsConfig(); dns != nil {
		if len(dns.Nameservers) > 0 && !e.attached.OnOverlay() {
			r.servers = dns.Nameservers
		}
		if len(dns.Search) > 0 {
			r.search = dns.Search
		}
		if len(dns.Options) > 0 {
			r.options = dns.Options
		}
	}
	if _, set := ndots(r.options); !set && e.attached.OnOverlay() {
		// A service's name must be looked up as it is first. With a search domain appended, the
		// query would leave the cluster, and a host elsewhere may have that name.
		r.options = append(slices.Clip(r.options), "ndots:0")
	}
	return r.String()
}

// searchFirst reports whether the service or the host sets ndots. As in Docker, names without a dot
// are then looked up in the search domains, and are not passed on as they are.
func searchFirst(spec *swarmv1.ContainerSpec) bool {
	options := spec.GetDnsConfig().GetOptions()
	if len(options) == 0 {
		options = readResolvConf(hostResolvConf).options
	}
	n, _ := ndots(options)
	return n > 0
}

// ndots returns how many dots a name must have to be looked up as it is first; false: the options
// do not set it.
func ndots(options []string) (int, bool) {
	for _, o := range slices.Backward(options) { // the last one counts
		if text, ok := strings.CutPrefix(o, "ndots:"); ok {
			if n, err := strconv.Atoi(text); err == nil {
				return n, true
			}
		}
	}
	return 0, false
}

// hosts returns the container's hosts file.
func (e etc) hosts() string {
	var b strings.Builder
	if e.host {
		if text, err := os.ReadFile(hostHosts); err == nil {
			b.Write(text)
			if len(text) > 0 && text[len(text)-1] != '\n' {
				b.WriteByte('\n')
			}
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
		for _, a := range e.attached.Addresses {
			addr, _, _ := strings.Cut(a, "/")
			b.WriteString(addr + "\t" + e.hostname + "\n")
		}
	}
	for _, line := range e.spec.GetHosts() {
		if fields := strings.Fields(line); len(fields) > 1 {
			b.WriteString(fields[0] + "\t" + strings.Join(fields[1:], " ") + "\n")
		}
	}
	return b.String()
}

// resolv is a resolv.conf.
type resolv struct {
	servers, search, options []string
}

func readResolvConf(path string) *resolv {
	text, err := os.ReadFile(path)
	if err != nil {
		return &resolv{} // Without a resolv.conf neither the host nor its containers resolve names.
	}
	return parseResolvConf(string(text))
}

func parseResolvConf(text string) *resolv {
	r := &resolv{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.servers = append(r.servers, fields[1])
		case "search", "domain":
			r.search = fields[1:] // the last one counts
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

// dropLoopback removes the servers that can be reached only in the host's network namespace.
func (r *resolv) dropLoopback() {
	var kept []string
	for _, s := range r.servers {
		host, _, _ := strings.Cut(s, "%")
		if addr, err := netip.ParseAddr(host); err == nil && addr.IsLoopback() {
			continue
		}
		kept = append(kept, s)
	}
	r.servers = kept
}

func (r *resolv) String() string {
	var b strings.Builder
	for _, s := range r.servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(r.search) > 0 {
		b.WriteString("search " + strings.Join(r.search, " ") + "\n")
	}
	if len(r.options) > 0 {
		b.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return b.String()
}
