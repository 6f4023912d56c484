//go:build linux

// Package forwarding turns on IP forwarding while one of our devices needs it.
//
// It sets `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`. A host with IPv6 forwarding
// ignores router advertisements, so the package also sets `accept_ra` of the interfaces that use
// them. It writes the old values into the alias of each device that needs forwarding. So this
// record survives the process, and the kernel deletes it together with the device. The removal of
// the last device restores the old values.
//
// Its callers are overlay/bridge and overlay/mesh. It starts no goroutines.
package forwarding

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// These are the parts of a device's alias, for example
// `swarm; ip_forward was 0; ipv6 forwarding was 0; accept_ra was 1: eth0 eth1`.
const (
	ours    = hostnet.Alias
	v4Off   = "ip_forward was 0"
	v6Off   = "ipv6 forwarding was 0"
	raWasOn = "accept_ra was 1: "
)

// Enable turns on forwarding for IPv4, and for IPv6 if the kernel has it. It records the old values
// in the alias of link. A later call for the same device sets the values again and keeps the
// record.
func Enable(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
	alias := link.Attrs().Alias
	if !hostnet.Ours(alias) {
		var err error
		if alias, err = recordedAlias(h); err != nil {
			return err
		}
		if alias == "" {
			if alias, err = newAlias(ns, h); err != nil {
				return err
			}
		}
		if err := h.LinkSetAlias(link, alias); err != nil {
			return fmt.Errorf("alias of %s: %w", link.Attrs().Name, err)
		}
	}
	values := map[string]string{"ipv4/ip_forward": "1"}
	if HasIPv6(ns) {
		// Set accept_ra first: without it a forwarding host deletes the default routes from router
		// advertisements at once.
		for _, name := range raInterfaces(alias) {
			if err := ns.SetSysctls(map[string]string{raKey(name): "2"}); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		values["ipv6/conf/all/forwarding"] = "1"
	}
	return ns.SetSysctls(values)
}

// HasIPv6 reports whether the kernel has IPv6 in the namespace.
func HasIPv6(ns *netns.Namespace) bool {
	_, err := ns.Sysctl("ipv6/conf/all/forwarding")
	return err == nil
}

// recordedAlias returns the alias of another device of ours, or "". It has the values from before
// the first device.
func recordedAlias(h *netlink.Handle) (string, error) {
	links, err := hostnet.Complete(func() ([]netlink.Link, error) { return h.LinkList() })
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if hostnet.Ours(l.Attrs().Alias) {
			return l.Attrs().Alias, nil
		}
	}
	return "", nil
}

// newAlias returns an alias with the current values.
func newAlias(ns *netns.Namespace, h *netlink.Handle) (string, error) {
	alias := []string{ours}
	v4, err := ns.Sysctl("ipv4/ip_forward")
	if err != nil {
		return "", err
	}
	if v4 == "0" {
		alias = append(alias, v4Off)
	}
	if v6, err := ns.Sysctl("ipv6/conf/all/forwarding"); err == nil && v6 == "0" {
		alias = append(alias, v6Off)
		links, err := hostnet.Complete(func() ([]netlink.Link, error) { return h.LinkList() })
		if err != nil {
			return "", fmt.Errorf("list interfaces: %w", err)
		}
		var names []string
		for _, l := range links {
			name := l.Attrs().Name
			// Record at most 8 names, because an alias has at most 255 bytes. A host with more
			// interfaces has configured routes, and does not need router advertisements.
			if ra, err := ns.Sysctl(raKey(name)); err == nil && ra == "1" && name != "lo" && l.Attrs().MasterIndex == 0 && len(names) < 8 {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			alias = append(alias, raWasOn+strings.Join(names, " "))
		}
	}
	return strings.Join(alias, "; "), nil
}

// raKey separates the parts with slashes, because the interface's name may contain a dot.
func raKey(name string) string { return "ipv6/conf/" + name + "/accept_ra" }

// raInterfaces returns the interfaces in the alias that had accept_ra 1.
func raInterfaces(alias string) []string {
	_, names, _ := strings.Cut(alias, raWasOn)
	return strings.Fields(names)
}

// Undo restores the values in the alias of a deleted device. It does nothing if there is another
// device of ours, or any bridge, because the programs of that device may rely on forwarding by now.
func Undo(ns *netns.Namespace, h *netlink.Handle, alias string) error {
	if !hostnet.Ours(alias) || alias == ours {
		return nil
	}
	links, err := hostnet.Complete(func() ([]netlink.Link, error) { return h.LinkList() })
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "bridge" || hostnet.Ours(l.Attrs().Alias) }) {
		return nil
	}
	values := make(map[string]string)
	if strings.Contains(alias, v4Off) {
		values["ipv4/ip_forward"] = "0"
	}
	if strings.Contains(alias, v6Off) && HasIPv6(ns) {
		values["ipv6/conf/all/forwarding"] = "0"
	}
	var errs []error
	for _, name := range raInterfaces(alias) {
		if err := ns.SetSysctls(map[string]string{raKey(name): "1"}); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, ns.SetSysctls(values))...)
}
