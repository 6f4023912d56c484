package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func judgeFirewall(f Firewall) []Finding {
	v := verdict{subject: "firewall"}
	if f.Problem != "" {
		v.add(Warning, "the firewall's rules cannot be read: "+f.Problem, "look at them with `nft list ruleset` and `iptables-save`")
	}
	for _, chain := range f.InputDrop {
		v.add(Warning, fmt.Sprintf("chain %s drops what no rule accepts: other nodes may not reach this one", chain),
			"accept 2377/tcp, 7946/tcp, 7946/udp and 4789/udp there from the other nodes (or the ports chosen at init), and the ports that services publish")
	}
	for _, d := range f.Devices {
		for _, chain := range d.Dropped {
			v.add(Failure, fmt.Sprintf("chain %s drops forwarded packets and has lost swarm's rules for %s: published ports and outgoing connections of containers do not work", chain, d.Name),
				fmt.Sprintf("restart the daemon (systemctl restart swarm), which writes them; if they disappear again, make the firewall accept the device: ufw route allow in on %s, or firewall-cmd --permanent --zone=trusted --add-interface=%s", d.Name, d.Name))
		}
	}
	for _, chain := range f.ForwardDrop {
		switch {
		case len(f.Devices) == 0:
			v.add(Note, fmt.Sprintf("chain %s drops forwarded packets: swarm adds accept rules for its own bridge there", chain),
				"after a firewall rewrites its rules (ufw reload, firewall-cmd --reload), look whether `nft list chain "+chain+"` still has them")
		case !slices.ContainsFunc(f.Devices, func(d Device) bool { return len(d.Dropped) > 0 }):
			v.add(OK, fmt.Sprintf("chain %s drops forwarded packets, and swarm's own rules let its packets through", chain), "")
		}
	}
	if f.Legacy {
		v.add(Warning, "rules of iptables-legacy apply beside nftables: swarm cannot see them",
			"if `iptables-legacy -S FORWARD` begins with -P FORWARD DROP: iptables-legacy -I FORWARD -i swarm0 -j ACCEPT, and the same with -o")
	}
	return v.orOK("no chain of another program drops packets of swarm")
}

// vxlanOverhead is the size in bytes of the headers of VXLAN over IPv4. leastMTU is the smallest
// MTU that IPv6 allows for a link.
const (
	vxlanOverhead = 50
	leastMTU      = 1280
)

func judgeMTU(mtu int, problem string, n Networks) []Finding {
	v := verdict{subject: "mtu"}
	room, by := n.Room, "the data path address"
	if room == 0 { // This host is no member yet, and packets will go the way out.
		room, by = mtu-vxlanOverhead, "the default route"
	}
	switch {
	case problem != "":
		v.add(Warning, "the MTU of the default route is not known: "+problem, "see `ip route` and `ip link`")
	case room < leastMTU:
		v.add(Failure, fmt.Sprintf("the way out carries %d bytes a packet, overlay networks only %d: less than the %d that IPv6 demands", mtu, room, leastMTU),
			fmt.Sprintf("raise the MTU of the interface with %s by at least %d", by, leastMTU-room))
	}
	for _, net := range n.Networks {
		anew := "to make the network anew on this host: swarm node update --availability drain, then active"
		switch {
		case net.MTU == 0 || n.Room == 0:
		case net.MTU > n.Room:
			v.add(Failure, fmt.Sprintf("packets of network %s have up to %d bytes here, the way to the other nodes takes %d: large transfers hang", net.Name, net.MTU, n.Room),
				fmt.Sprintf("raise the MTU of the interface with the data path address by %d; or, %s", net.MTU-n.Room, anew))
		case net.MTU < n.Room:
			v.add(Note, fmt.Sprintf("packets of network %s have up to %d bytes here, and the way to the other nodes takes %d by now", net.Name, net.MTU, n.Room), anew)
		}
	}
	return v.orOK(fmt.Sprintf("the way out carries %d bytes a packet, overlay networks %d", mtu, room))
}

// judgeNetworks compares the subnets of the cluster's networks with the ranges that the host
// routes.
func judgeNetworks(n Networks) []Finding {
	v := verdict{subject: "networks"}
	if n.Problem != "" {
		v.add(Warning, "the routes of this host cannot be compared with the networks: "+n.Problem, "see `ip route`, `ip address` and `swarm network ls`")
	}
	for _, net := range n.Networks {
		for _, sub := range net.Subnets {
			for _, r := range n.Ranges {
				if itself := net.OnHost != "" && r.Device == net.OnHost; !itself && r.Prefix.Overlaps(sub) {
					judgeOverlap(&v, net, sub, r)
				}
			}
		}
	}
	for _, pool := range n.Pools {
		for _, r := range n.Ranges {
			if r.Prefix.Bits() <= pool.Bits() && r.Prefix.Overlaps(pool) {
				v.add(Warning, fmt.Sprintf("the address pool %s lies in %s, which this host reaches %s: no subnet can be taken from it", pool, r.Prefix, by(r)),
					"name subnets with swarm network create --subnet, or make the cluster with swarm init --default-addr-pool and a range that no host routes")
			}
		}
	}
	return v.orOK("no network overlaps a route of this host")
}

func judgeOverlap(v *verdict, net Network, sub netip.Prefix, r Range) {
	text := fmt.Sprintf("network %s (%s) overlaps %s, which this host reaches %s", net.Name, sub, r.Prefix, by(r))
	remedy := fmt.Sprintf("make network %s anew with swarm network create --subnet and a range that no host routes, or take the route away", net.Name)
	switch {
	case net.OnHost == "":
		v.add(Warning, text+": its containers do not reach other hosts in that range", remedy)
	case r.Prefix.Bits() < sub.Bits():
		v.add(Warning, text+": this host no longer reaches other hosts in the range of the network", "take that route away, or give those hosts other addresses")
	default:
		v.add(Failure, text+": packets for one go to the other", "take that route or address away, or give that network another range")
	}
}

func by(r Range) string {
	if r.Device == "" {
		return "by a route that leads nowhere"
	}
	return "through " + r.Device
}

func judgePorts(ports []Port, n Networks, member bool) []Finding {
	v := verdict{subject: "ports"}
	names := make([]string, 0, len(ports))
	for _, p := range ports {
		name := fmt.Sprintf("%d/%s", p.Number, p.Network)
		names = append(names, name)
		if p.Taken != "" {
			v.add(Failure, fmt.Sprintf("port %s, for %s, is taken: %s", name, p.For, p.Taken),
				fmt.Sprintf("stop what uses it (`ss -lntup 'sport = :%d'` names it), or choose another with swarm init %s", p.Number, p.Flag))
		}
	}
	for _, held := range n.Held {
		v.add(Failure, held+": no service answers there", "stop that program, and the port is taken within ten seconds; or publish another one")
	}
	for _, unable := range n.Unable {
		v.add(Failure, unable+": no service answers there", "see the findings for kernel and ports, or publish with mode=host")
	}
	if member {
		// This host's daemon listens on the ports. The other nodes report whether they reach them.
		return v.orOK("no other program has a port that services publish")
	}
	return v.orOK(strings.Join(names, ", ") + " are free")
}
