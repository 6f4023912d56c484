package flag

import (
	"fmt"
	"net/netip"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// ParseNetwork parses --network: NAME, or name=NAME,alias=ALIAS,driver-opt=KEY=VALUE,ip=ADDRESS.
// Keys other than name may be given several times.
func ParseNetwork(s string) (*swarmv1.NetworkAttachmentConfig, error) {
	if !strings.Contains(s, "=") {
		if s == "" || strings.Contains(s, ",") {
			return nil, fmt.Errorf("use NAME or name=NAME,alias=ALIAS,driver-opt=KEY=VALUE,ip=ADDRESS")
		}
		return &swarmv1.NetworkAttachmentConfig{Target: s}, nil
	}
	parts, err := fields(s)
	if err != nil {
		return nil, err
	}
	n := &swarmv1.NetworkAttachmentConfig{}
	for _, part := range parts {
		key, value := KeyValue(part)
		switch strings.ToLower(key) {
		case "name":
			n.Target = value
		case "alias":
			n.Aliases = append(n.Aliases, value)
		case "driver-opt":
			if err := CheckKeyValue(value); err != nil {
				return nil, fmt.Errorf("driver-opt: %w", err)
			}
			if n.DriverOpts == nil {
				n.DriverOpts = map[string]string{}
			}
			k, v := KeyValue(value)
			n.DriverOpts[k] = v
		case "ip", "ip6":
			if err := CheckIP(value); err != nil {
				return nil, err
			}
			n.Addresses = append(n.Addresses, value)
		default:
			return nil, fmt.Errorf("unknown key %q: use name, alias, driver-opt or ip", key)
		}
	}
	if n.Target == "" {
		return nil, fmt.Errorf("the network's name is missing: add name=NAME")
	}
	return n, nil
}

// CheckIP refuses a value that is not an IP address.
func CheckIP(s string) error {
	if _, err := netip.ParseAddr(s); err != nil {
		return fmt.Errorf("%q is not an IP address", s)
	}
	return nil
}

// CheckExtraHost refuses a value that ParseExtraHost cannot parse.
func CheckExtraHost(s string) error {
	if _, _, err := ParseExtraHost(s); err != nil {
		return err
	}
	return nil
}

// ParseExtraHost parses --host: HOST:IP. An IPv6 address may stand in brackets.
func ParseExtraHost(s string) (host, ip string, err error) {
	host, ip, ok := strings.Cut(s, ":")
	ip = strings.Trim(ip, "[]")
	if _, addrErr := netip.ParseAddr(ip); !ok || host == "" || addrErr != nil {
		return "", "", fmt.Errorf("use HOST:IP")
	}
	return host, ip, nil
}
