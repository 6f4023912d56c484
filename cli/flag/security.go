package flag

import (
	"fmt"
	"os"
	"strings"

	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// CheckSecurityOpt refuses an option that SecurityOpts does not know. It reads no file.
func CheckSecurityOpt(s string) error {
	return applySecurityOpt(&swarmv1.Privileges{}, s, func(string) ([]byte, error) { return nil, nil })
}

// applySecurityOpt sets one --security-opt in p. readFile reads a seccomp profile.
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

// SecurityOpts sets the values of --security-opt in p and returns p. If p is nil, it makes a
// message. It reads profiles for seccomp from files of this machine.
func SecurityOpts(p *swarmv1.Privileges, opts []string) (*swarmv1.Privileges, error) {
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
