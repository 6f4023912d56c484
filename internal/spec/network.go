package spec

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"swarm/internal/ident"
	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	driverOverlay = "overlay"
	// minHostBits and maxHostBits limit the host bits of a subnet: it must have at least one
	// address to allocate, and package ipam counts with 64 bits.
	minHostBits, maxHostBits = 2, 64

	// optionMTU is the name of the MTU option, as in Docker. The MTU is in bytes. minMTU is the
	// smallest that IPv6 allows.
	optionMTU      = "com.docker.network.driver.mtu"
	minMTU, maxMTU = 1280, 65535
)

// Ingress is the name of the network that carries the traffic of published ports from node to node.
// The cluster creates it.
const Ingress = "ingress"

// LocalNetworks returns the names of the networks that every node has by itself. They have no row
// in the store.
func LocalNetworks() []string { return []string{"bridge", "host", "none"} }

// IsLocalNetwork reports whether LocalNetworks contains the name.
func IsLocalNetwork(name string) bool { return slices.Contains(LocalNetworks(), name) }

// Network returns a complete and valid copy of the spec of a network. The caller chooses the
// subnets that the spec does not name.
func Network(in *swarmv1.NetworkSpec) (*swarmv1.NetworkSpec, error) {
	if err := firstError(ident.CheckNetworkName(in.GetName()), checkLabels("network", in.GetLabels())); err != nil {
		return nil, err
	}
	n := in.CloneVT()
	if IsLocalNetwork(ident.Fold(n.GetName())) {
		return nil, invalid("network %s is built in, every node has it: choose another name", n.GetName())
	}
	if n.DriverConfig.GetName() == "" {
		n.DriverConfig = &swarmv1.Driver{Name: driverOverlay, Options: n.DriverConfig.GetOptions()}
	}
	switch d := n.DriverConfig.GetName(); d {
	case driverOverlay:
	case "bridge", "host", "none", "null":
		return nil, invalid("networks of driver %s are built in, one on every node: use network %s, or create an overlay network", d, strings.Replace(d, "null", "none", 1))
	default:
		return nil, invalid("network driver %s is not known: use overlay", quote(d))
	}
	if err := checkNetworkOptions(n.DriverConfig.GetOptions()); err != nil {
		return nil, err
	}
	if d := n.GetIpam().GetDriver().GetName(); d != "" && d != "default" {
		return nil, invalid("IPAM driver %s is not known: leave it out, or use default", quote(d))
	}
	for i, c := range n.GetIpam().GetConfigs() {
		p, err := checkIPAM(c)
		if err != nil {
			return nil, err
		}
		for _, other := range n.GetIpam().GetConfigs()[:i] {
			if o, err := netip.ParsePrefix(other.GetSubnet()); err == nil && o.Addr().Is4() == p.Addr().Is4() {
				return nil, invalid("subnets %s and %s are of one family: a network has one IPv4 and one IPv6 subnet; create another network", o, p)
			}
		}
		n.Ipv6Enabled = n.Ipv6Enabled || p.Addr().Is6()
	}
	return n, nil
}

func checkNetworkOptions(options map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch key {
		case optionMTU:
			if n, err := strconv.Atoi(options[key]); err != nil || n < minMTU || n > maxMTU {
				return invalid("option %s is %s: use a number from %d to %d", key, quote(options[key]), minMTU, maxMTU)
			}
		case "encrypted":
			return invalid("traffic between hosts is not encrypted: leave option encrypted out, and use a private network between the hosts")
		default:
			return invalid("network option %s is not known: leave it out; there is %s", quote(key), optionMTU)
		}
	}
	return nil
}

// NetworkMTU returns the MTU that a network asks for. 0 means that the underlay decides.
func NetworkMTU(n *swarmv1.NetworkSpec) int {
	mtu, err := strconv.Atoi(n.GetDriverConfig().GetOptions()[optionMTU])
	if err != nil {
		return 0
	}
	return mtu
}

func checkIPAM(c *swarmv1.IPAMConfig) (netip.Prefix, error) {
	subnet, err := netip.ParsePrefix(c.GetSubnet())
	switch {
	case c.GetSubnet() == "":
		return subnet, invalid("IP range and gateway need a subnet to be in: give --subnet too")
	case err != nil || subnet.Addr().Is4In6():
		return subnet, invalid("subnet %s is not valid: write it like 10.1.0.0/24", quote(c.GetSubnet()))
	case subnet.Masked() != subnet:
		return subnet, invalid("subnet %s has host bits set: write %s", quote(c.GetSubnet()), subnet.Masked())
	case subnet.Addr().IsLoopback() || subnet.Addr().IsMulticast() || subnet.Addr().IsLinkLocalUnicast() || subnet.Addr().IsUnspecified():
		return subnet, invalid("subnet %s is not for hosts: choose one like 10.1.0.0/24", subnet)
	}
	if host := subnet.Addr().BitLen() - subnet.Bits(); host < minHostBits {
		return subnet, invalid("subnet %s leaves no addresses: use /%d or larger", subnet, subnet.Addr().BitLen()-minHostBits)
	} else if host > maxHostBits {
		return subnet, invalid("subnet %s is too large: use /64 or smaller", subnet)
	}
	if r := c.GetRange(); r != "" {
		p, err := netip.ParsePrefix(r)
		if err != nil || !subnet.Contains(p.Addr()) || p.Bits() < subnet.Bits() {
			return subnet, invalid("IP range %s is not inside subnet %s: choose a part of it", quote(r), subnet)
		}
	}
	if g := c.GetGateway(); g != "" {
		a, err := netip.ParseAddr(g)
		if err != nil || !subnet.Contains(a) {
			return subnet, invalid("gateway %s is not inside subnet %s: choose an address of it", quote(g), subnet)
		}
		if a == subnet.Addr() {
			return subnet, invalid("gateway %s is the subnet's own address: choose another, for example %s", quote(g), a.Next())
		}
	}
	s, err := ipam.ParseSubnet(c)
	switch {
	case err != nil:
		return subnet, invalid("%s: choose another subnet", err)
	case s.RangeSize() == 0:
		return subnet, invalid("IP range %s leaves no addresses: use a larger one", quote(c.GetRange()))
	}
	return subnet, nil
}
