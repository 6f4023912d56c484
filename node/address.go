package node

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// hostAddrs returns the usable addresses of this host's interfaces that are up, by the interface's
// name. It is a function so that tests can set the addresses.
type hostAddrs func() (map[string][]netip.Addr, error)

// interfaceAddrs reads the addresses from the kernel.
func interfaceAddrs() (map[string][]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	found := map[string][]netip.Addr{}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || isContainerInterface(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err == nil && prefix.Addr().IsGlobalUnicast() {
				found[i.Name] = append(found[i.Name], prefix.Addr())
			}
		}
	}
	return found, nil
}

// isContainerInterface reports whether an interface leads to containers of swarm or of another
// engine. Other hosts cannot reach this host by such an interface.
func isContainerInterface(name string) bool {
	if id, ok := strings.CutPrefix(name, "br-"); ok { // Docker's bridges have 12 hexadecimal digits; br-lan, for example, is not Docker's.
		_, err := hex.DecodeString(id)
		return err == nil && len(id) == 12
	}
	return slices.ContainsFunc([]string{"swarm", "swmesh", "docker", "veth", "cni", "podman"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// parseAdvertiseAddr returns the address and port at which other nodes reach this host. given is an
// IP address or an interface, with or without port. If it is empty, the host must have only one
// possible address.
func parseAdvertiseAddr(given string, defaultPort uint16, addrs hostAddrs) (addr string, port uint16, err error) {
	host, port, err := splitPort(given, defaultPort)
	if err != nil {
		return "", 0, invalid("advertise address %q: %v", given, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return "", 0, invalid("advertise address %s: other nodes cannot reach an unspecified address: give an address of this host", given)
		}
		return ip.Unmap().String(), port, nil
	}
	all, err := addrs()
	if err != nil {
		return "", 0, fmt.Errorf("list addresses: %w", err)
	}
	if host != "" {
		of, ok := all[host]
		if !ok {
			return "", 0, invalid("advertise address %q is neither an IP address nor an interface of this host that is up", given)
		}
		return onlyAddress(map[string][]netip.Addr{host: of}, port)
	}
	return onlyAddress(all, port)
}

// checkAdvertised returns an error for an address that is not one of this host. As in Docker, it
// accepts an address that NAT may forward to this host, if it is clear to which of the host's
// addresses: the listen address is given, or the host has only one address of that family.
func (n *Node) checkAdvertised(addr, listenHost string) error {
	given, err := netip.ParseAddr(addr)
	if err != nil || given.IsLoopback() {
		return err
	}
	if listen, err := netip.ParseAddr(listenHost); err == nil && !listen.IsUnspecified() {
		return nil
	}
	all, err := n.addrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var own []string
	for _, of := range all {
		for _, a := range of {
			if a == given {
				return nil
			}
			if a.Is4() == given.Is4() {
				own = append(own, a.String())
			}
		}
	}
	if len(own) == 1 {
		return nil
	}
	slices.Sort(own)
	return invalid("advertise address %s is not an address of this host (%s): give one of these, or name the address that it is forwarded to with --listen-addr", addr, cmp.Or(strings.Join(own, ", "), "it has no address of this family"))
}

// onlyAddress returns the only candidate. It returns an error if there are several.
func onlyAddress(candidates map[string][]netip.Addr, port uint16) (string, uint16, error) {
	var v4, v6 []string
	for name, addrs := range candidates {
		for _, a := range addrs {
			if a.Is4() {
				v4 = append(v4, fmt.Sprintf("%s (%s)", a, name))
			} else {
				v6 = append(v6, fmt.Sprintf("%s (%s)", a, name))
			}
		}
	}
	// If the host has one IPv4 address and some IPv6 addresses, use the IPv4 address, as Docker
	// does.
	list := v4
	if len(v4) == 0 {
		list = v6
	}
	switch len(list) {
	case 0:
		return "", 0, invalid("this host has no address that other nodes can reach: connect it to a network, or give an address with --advertise-addr")
	case 1:
		addr, _, _ := strings.Cut(list[0], " ")
		return addr, port, nil
	default:
		slices.Sort(list)
		return "", 0, invalid("could not choose an IP address to advertise since this host has several: %s: choose one with --advertise-addr", strings.Join(list, ", "))
	}
}

// splitPort parses "", "host", "host:port", "[v6]:port" and an IPv6 address without brackets.
func splitPort(s string, defaultPort uint16) (host string, port uint16, err error) {
	if s == "" {
		return "", defaultPort, nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String(), defaultPort, nil
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		if strings.Contains(s, ":") {
			return "", 0, fmt.Errorf("want HOST or HOST:PORT")
		}
		return s, defaultPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q is not in 1-65535", text)
	}
	return host, uint16(n), nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func failedPrecondition(format string, args ...any) error {
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(format, args...))
}
