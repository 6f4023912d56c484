package flag

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// ParsePorts parses --publish: [[IP:]PUBLISHED:]TARGET[/PROTOCOL], or
// published=,target=,protocol=,mode=,ip=. Ports may be ranges. The result has one element for each
// port of a range.
func ParsePorts(s string) ([]*swarmv1.PortConfig, error) {
	if strings.Contains(s, "=") {
		return parseLongPorts(s)
	}
	return parseShortPorts(s)
}

func parseLongPorts(s string) ([]*swarmv1.PortConfig, error) {
	parts, err := fields(s)
	if err != nil {
		return nil, err
	}
	p := &swarmv1.PortConfig{}
	var published, target string
	for _, part := range parts {
		key, value := KeyValue(strings.TrimSpace(part))
		var err error
		switch strings.ToLower(key) {
		case "target":
			target = value
		case "published":
			if published = value; value == "" {
				err = fmt.Errorf("published port is empty: leave it out to have one chosen")
			}
		case "protocol":
			p.Protocol, err = parseProtocol(value)
		case "mode":
			p.PublishMode, err = parsePublishMode(value)
		case "ip":
			err = CheckIP(value)
			p.HostIp = value
		case "name":
			p.Name = value
		default:
			err = fmt.Errorf("unknown key %q: use target, published, protocol, mode, ip or name", key)
		}
		if err != nil {
			return nil, err
		}
	}
	if target == "" {
		return nil, fmt.Errorf("the port in the container is missing: add target=PORT")
	}
	return expandPorts(p, published, target)
}

// expandPorts returns a copy of p for each port of the ranges. Several published ports may lead to
// one target port.
func expandPorts(p *swarmv1.PortConfig, published, target string) ([]*swarmv1.PortConfig, error) {
	from, to, err := portRange("target", target)
	if err != nil {
		return nil, err
	}
	count, first := to-from+1, uint32(0)
	if published != "" && published != "0" { // For "" and 0 the cluster chooses the port.
		last := uint32(0)
		if first, last, err = portRange("published", published); err != nil {
			return nil, err
		}
		if count != 1 && last-first != to-from {
			return nil, fmt.Errorf("the ranges %s and %s are not of the same length", published, target)
		}
		count = last - first + 1
	}
	var out []*swarmv1.PortConfig
	for n := range count {
		one := p.CloneVT()
		one.TargetPort = min(from+n, to)
		if first != 0 {
			one.PublishedPort = first + n
		}
		out = append(out, one)
	}
	return out, nil
}

func parsePort(what, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s port %q is not a number from 1 to 65535", what, s)
	}
	return uint32(n), nil
}

func parseProtocol(s string) (swarmv1.PortConfig_Protocol, error) {
	n, ok := swarmv1.PortConfig_Protocol_value[strings.ToUpper(s)]
	if !ok {
		return 0, fmt.Errorf("unknown protocol %q: use tcp, udp or sctp", s)
	}
	return swarmv1.PortConfig_Protocol(n), nil
}

func parsePublishMode(s string) (swarmv1.PortConfig_PublishMode, error) {
	n, ok := swarmv1.PortConfig_PublishMode_value[strings.ToUpper(s)]
	if !ok {
		return 0, fmt.Errorf("unknown mode %q: use ingress, host or local", s)
	}
	return swarmv1.PortConfig_PublishMode(n), nil
}

// parseShortPorts is not nat.ParsePortSpec of docker/go-connections, because that accepts target
// port 0 and "80/", and returns the published ports of a range as text that must be parsed again.
func parseShortPorts(s string) ([]*swarmv1.PortConfig, error) {
	spec, proto, ok := strings.Cut(s, "/")
	if !ok {
		proto = "tcp"
	}
	protocol, err := parseProtocol(proto)
	if err != nil {
		return nil, err
	}
	published, target, ip := "", spec, ""
	if i := strings.LastIndex(spec, ":"); i >= 0 {
		published, target = spec[:i], spec[i+1:]
	}
	if i := strings.LastIndex(published, ":"); i >= 0 {
		ip, published = strings.Trim(published[:i], "[]"), published[i+1:]
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, fmt.Errorf("%q is not an IP address: use [[IP:]PUBLISHED:]TARGET[/PROTOCOL]", ip)
		}
	}
	return expandPorts(&swarmv1.PortConfig{Protocol: protocol, HostIp: ip}, published, target)
}

func portRange(what, s string) (from, to uint32, err error) {
	low, high, ok := strings.Cut(s, "-")
	if from, err = parsePort(what, low); err != nil {
		return 0, 0, err
	}
	if to = from; ok {
		if to, err = parsePort(what, high); err != nil {
			return 0, 0, err
		}
	}
	if to < from {
		return 0, 0, fmt.Errorf("the range %s runs backwards", s)
	}
	return from, to, nil
}

// CheckPorts refuses a list in which the same port of the same protocol is published twice on one
// address. A port without an address is published on all addresses.
func CheckPorts(ports []*swarmv1.PortConfig) error {
	type key struct {
		proto swarmv1.PortConfig_Protocol
		port  uint32
	}
	taken := map[key]*swarmv1.PortConfig{}
	for _, p := range ports {
		if p.PublishedPort == 0 {
			continue
		}
		k := key{p.Protocol, p.PublishedPort}
		other, ok := taken[k]
		if ok && (other.HostIp == p.HostIp || other.HostIp == "" || p.HostIp == "") {
			return usage.Invalidf("port %d/%s is published twice, for target ports %d and %d: publish each port once",
				p.PublishedPort, term.EnumWord(p.Protocol), other.TargetPort, p.TargetPort)
		}
		taken[k] = p
	}
	return nil
}
