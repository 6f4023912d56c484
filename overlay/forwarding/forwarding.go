//go:build linux

// Package forwarding switches routing between interfaces on for as long as a device of ours needs it.
//
// What there is to undo is written into the alias of each device that asked, so that it outlives the process and goes with
// the device: the last one takes everything back. It owns `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding` and, where
// that would make the host deaf to router advertisements, `accept_ra`. Callers: overlay/bridge, overlay/mesh. No goroutines.
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

// Words of a device's alias: `swarm; ip_forward was 0; ipv6 forwarding was 0; accept_ra was 1: eth0 eth1`.
const (
	ours    = hostnet.Alias
	v4Off   = "ip_forward was 0"
	v6Off   = "ipv6 forwarding was 0"
	raWasOn = "accept_ra was 1: "
)

// Enable switches forwarding on, for both families where the kernel has them, and makes link remember what to undo. Again
// for the same device, it only mends.
func Enable(ns *netns.Namespace, h *netlink.Handle, link netlink.Link) error {
	note := link.Attrs().Alias
	if !hostnet.Ours(note) {
		var err error
		if note, err = remembered(h); err != nil {
			return err
		}
		if note == "" {
			if note, err = observe(ns, h); err != nil {
				return err
			}
		}
		if err := h.LinkSetAlias(link, note); err != nil {
			return fmt.Errorf("alias of %s: %w", link.Attrs().Name, err)
		}
	}
	values := map[string]string{"ipv4/ip_forward": "1"}
	if HasIPv6(ns) {
		// Forwarding hosts ignore router advertisements, unless told otherwise, and forget their default routes at once.
		for _, name := range deafened(note) {
			if err := ns.SetSysctls(map[string]string{raKey(name): "2"}); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		values["ipv6/conf/all/forwarding"] = "1"
	}
	return ns.SetSysctls(values)
}

// HasIPv6 is false where the kernel was told to leave IPv6 out.
func HasIPv6(ns *netns.Namespace) bool {
	_, err := ns.Sysctl("ipv6/conf/all/forwarding")
	return err == nil
}

// remembered is the note of another device of ours: what it found is what was there before us.
func remembered(h *netlink.Handle) (string, error) {
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

func observe(ns *netns.Namespace, h *netlink.Handle) (string, error) {
	note := []string{ours}
	v4, err := ns.Sysctl("ipv4/ip_forward")
	if err != nil {
		return "", err
	}
	if v4 == "0" {
		note = append(note, v4Off)
	}
	if v6, err := ns.Sysctl("ipv6/conf/all/forwarding"); err == nil && v6 == "0" {
		note = append(note, v6Off)
		links, err := hostnet.Complete(func() ([]netlink.Link, error) { return h.LinkList() })
		if err != nil {
			return "", fmt.Errorf("list interfaces: %w", err)
		}
		var names []string
		for _, l := range links {
			name := l.Attrs().Name
			// An alias has 255 bytes; a host with more interfaces than that holds routes by configuration.
			if ra, err := ns.Sysctl(raKey(name)); err == nil && ra == "1" && name != "lo" && l.Attrs().MasterIndex == 0 && len(names) < 8 {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			note = append(note, raWasOn+strings.Join(names, " "))
		}
	}
	return strings.Join(note, "; "), nil
}

// raKey has slashes: an interface's name may have a dot in it.
func raKey(name string) string { return "ipv6/conf/" + name + "/accept_ra" }

func deafened(note string) []string {
	_, names, _ := strings.Cut(note, raWasOn)
	return strings.Fields(names)
}

// Undo is called when the device that bore the alias is gone. It takes back what was switched on, unless another device of
// ours, or a bridge of somebody else's, may rely on it by now.
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
	for _, name := range deafened(alias) {
		if err := ns.SetSysctls(map[string]string{raKey(name): "1"}); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, ns.SetSysctls(values))...)
}
