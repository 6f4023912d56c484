package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// What single values of `service create`'s and `update`'s flags mean.

// fields splits "a=b,c=d", where a value with a comma is put in double quotes.
func fields(s string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(s))
	out, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("not a list of KEY=VALUE with commas between them")
	}
	return out, nil
}

func parseBool(key, value string) (bool, error) {
	if value == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s=%s: use true or false", key, value)
	}
	return b, nil
}

func parseNetwork(s string) (*swarmv1.NetworkAttachmentConfig, error) {
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
		key, value := keyValue(part)
		switch strings.ToLower(key) {
		case "name":
			n.Target = value
		case "alias":
			n.Aliases = append(n.Aliases, value)
		case "driver-opt":
			if err := checkKeyValue(value); err != nil {
				return nil, fmt.Errorf("driver-opt: %w", err)
			}
			if n.DriverOpts == nil {
				n.DriverOpts = map[string]string{}
			}
			k, v := keyValue(value)
			n.DriverOpts[k] = v
		case "ip", "ip6":
			if err := checkIP(value); err != nil {
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

// parseFile reads what secrets and configs have in common.
func parseFile(s, defaultTarget string) (source string, file *swarmv1.FileTarget, err error) {
	file = &swarmv1.FileTarget{Uid: "0", Gid: "0", Mode: 0o444}
	if !strings.Contains(s, "=") && !strings.Contains(s, ",") {
		source = s
	} else {
		parts, err := fields(s)
		if err != nil {
			return "", nil, err
		}
		for _, part := range parts {
			key, value := keyValue(part)
			switch strings.ToLower(key) {
			case "source", "src":
				source = value
			case "target":
				file.Name = value
			case "uid":
				file.Uid = value
			case "gid":
				file.Gid = value
			case "mode":
				mode, err := strconv.ParseUint(value, 0, 32)
				if err != nil || mode > 0o7777 {
					return "", nil, fmt.Errorf("mode=%s: use an octal number such as 0444", value)
				}
				file.Mode = uint32(mode)
			default:
				return "", nil, fmt.Errorf("unknown key %q: use source, target, uid, gid or mode", key)
			}
		}
	}
	if source == "" {
		return "", nil, fmt.Errorf("the name is missing: add source=NAME")
	}
	if file.Name == "" {
		file.Name = defaultTarget + source
	}
	return source, file, nil
}

func parseSecret(s string) (*swarmv1.SecretReference, error) {
	source, file, err := parseFile(s, "")
	if err != nil {
		return nil, err
	}
	return &swarmv1.SecretReference{SecretName: source, File: file}, nil
}

func parseConfig(s string) (*swarmv1.ConfigReference, error) {
	source, file, err := parseFile(s, "/")
	if err != nil {
		return nil, err
	}
	return &swarmv1.ConfigReference{ConfigName: source, File: file}, nil
}

func parsePref(s string) (*swarmv1.PlacementPreference, error) {
	strategy, descriptor, _ := strings.Cut(s, "=")
	if strategy != "spread" || descriptor == "" {
		return nil, fmt.Errorf("use spread=node.labels.LABEL")
	}
	return &swarmv1.PlacementPreference{Preference: &swarmv1.PlacementPreference_Spread{
		Spread: &swarmv1.SpreadOver{SpreadDescriptor: descriptor},
	}}, nil
}

func parseUlimit(s string) (*swarmv1.Ulimit, error) {
	const hint = "use NAME=SOFT[:HARD], such as nofile=1024:2048"
	u, err := units.ParseUlimit(s)
	var number *strconv.NumError
	switch {
	case errors.As(err, &number):
		return nil, fmt.Errorf("%q is not a whole number: %s", number.Num, hint)
	case err != nil && strings.HasPrefix(err.Error(), "invalid ulimit type"):
		name, _ := keyValue(s)
		return nil, fmt.Errorf("there is no limit %q: %s", name, hint)
	case err != nil && strings.Contains(err.Error(), "less than or equal"):
		return nil, fmt.Errorf("the soft limit is above the hard one: %s", hint)
	case err != nil:
		return nil, errors.New(hint)
	}
	return &swarmv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}, nil
}

// parseGeneric reads KIND=AMOUNT, and KIND=NAME for a resource that has names.
func parseGeneric(s string) (*swarmv1.GenericResource, error) {
	kind, value, ok := strings.Cut(s, "=")
	if !ok || kind == "" || value == "" {
		return nil, fmt.Errorf("use KIND=AMOUNT, such as gpu=1")
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		if n < 1 {
			return nil, fmt.Errorf("an amount is at least 1")
		}
		return &swarmv1.GenericResource{Kind: kind, Value: n}, nil
	}
	return &swarmv1.GenericResource{Kind: kind, Named: value}, nil
}

func parseDevice(s string) (*swarmv1.DeviceMapping, error) {
	d := &swarmv1.DeviceMapping{CgroupPermissions: "rwm"}
	parts := strings.Split(s, ":")
	d.PathOnHost, d.PathInContainer = parts[0], parts[0]
	rest := parts[1:]
	if n := len(rest); n > 0 && rest[n-1] != "" && strings.Trim(rest[n-1], "rwm") == "" {
		d.CgroupPermissions, rest = rest[n-1], rest[:n-1]
	}
	if len(rest) > 0 {
		d.PathInContainer = rest[0]
	}
	if len(rest) > 1 || !path.IsAbs(d.PathOnHost) || !path.IsAbs(d.PathInContainer) {
		return nil, fmt.Errorf("use /dev/HOST[:/dev/CONTAINER[:rwm]]")
	}
	return d, nil
}

func checkConstraint(s string) error {
	_, err := spec.ParseConstraint(s)
	return err
}

// checkWord wants one word.
func checkWord(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return fmt.Errorf("use a word without blanks")
	}
	return nil
}

func checkIP(s string) error {
	if _, err := netip.ParseAddr(s); err != nil {
		return fmt.Errorf("%q is not an IP address", s)
	}
	return nil
}

func checkExtraHost(s string) error {
	if _, _, err := extraHost(s); err != nil {
		return err
	}
	return nil
}

// extraHost reads host:ip; the address may be IPv6.
func extraHost(s string) (host, ip string, err error) {
	host, ip, ok := strings.Cut(s, ":")
	ip = strings.Trim(ip, "[]")
	if _, addrErr := netip.ParseAddr(ip); !ok || host == "" || addrErr != nil {
		return "", "", fmt.Errorf("use HOST:IP")
	}
	return host, ip, nil
}

func checkSecurityOpt(s string) error {
	return applySecurityOpt(&swarmv1.Privileges{}, s, func(string) ([]byte, error) { return nil, nil })
}

// applySecurityOpt reads one --security-opt; a seccomp profile comes from a file of the caller.
func applySecurityOpt(p *swarmv1.Privileges, s string, readFile func(string) ([]byte, error)) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		key, value, _ = strings.Cut(s, ":")
	}
	switch key {
	case "no-new-privileges":
		on, err := parseBool(key, value)
		p.NoNewPrivileges = on
		return err
	case "seccomp":
		switch value {
		case "unconfined":
			p.Seccomp = &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_UNCONFINED}
		case "", "default", "builtin":
			p.Seccomp = &swarmv1.SeccompOpts{}
		default:
			profile, err := readFile(value)
			if err != nil {
				return usage.Invalidf("seccomp profile %s cannot be read: %s", value, usage.Reason(err.Error()))
			}
			p.Seccomp = &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_CUSTOM, Profile: profile}
		}
		return nil
	case "apparmor":
		switch value {
		case "unconfined":
			p.Apparmor = &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_DISABLED}
		case "", "default":
			p.Apparmor = &swarmv1.AppArmorOpts{}
		default:
			p.Apparmor = &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_CUSTOM, Profile: value}
		}
		return nil
	case "label":
		return applySELinux(p, value)
	}
	return fmt.Errorf("unknown security option %q: use no-new-privileges, seccomp=, apparmor= or label=", key)
}

func applySELinux(p *swarmv1.Privileges, s string) error {
	if p.SelinuxContext == nil {
		p.SelinuxContext = &swarmv1.SELinuxContext{}
	}
	key, value, _ := strings.Cut(s, ":")
	switch key {
	case "disable":
		p.SelinuxContext.Disable = true
	case "user":
		p.SelinuxContext.User = value
	case "role":
		p.SelinuxContext.Role = value
	case "type":
		p.SelinuxContext.Type = value
	case "level":
		p.SelinuxContext.Level = value
	default:
		return fmt.Errorf("unknown label option %q: use disable, or one of user, role, type and level with a colon and a value", s)
	}
	return nil
}

func securityOpts(p *swarmv1.Privileges, opts []string) (*swarmv1.Privileges, error) {
	if p == nil {
		p = &swarmv1.Privileges{}
	}
	for _, o := range opts {
		if err := applySecurityOpt(p, o, os.ReadFile); err != nil {
			return nil, err
		}
	}
	return p, nil
}
