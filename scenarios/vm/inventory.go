package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// inventory has the state of a host by kind, as lines. Inventories from before and after show what
// swarm has left.
type inventory map[string][]string

// inventories has the shell command that lists each kind.
var inventories = map[string]string{
	// Debian's own timers write to the folders of packages and backups, and udev keeps locks of the
	// agent's port.
	"file": `find / -xdev \( -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/lib/systemd -o -path /root -o -path /var/backups -o -path /var/cache -o -path /var/lib/apt \) -prune -o -print; find /run -path /run/udev -prune -o -path '*swarm*' -print`,
	// Only cgroups of swarm count. Those of the agent's own commands come and go.
	"cgroup":    `find /sys/fs/cgroup -type d -name '*swarm*'`,
	"mount":     `cut -d' ' -f5 /proc/self/mountinfo`,
	"rule":      `nft list ruleset`,
	"interface": `ls /sys/class/net`,
	"route":     `ip -o route show table all; ip -o rule`,
	"namespace": `ls /run/netns 2>/dev/null || true`,
	"process":   `for p in /proc/[0-9]*; do readlink $p/exe || true; done 2>/dev/null | grep -i swarm || true`,
	"unit":      `systemctl list-unit-files --no-legend --plain | grep -i swarm || true`,
	// The list leaves out values that the kernel chooses anew at each boot, and counters.
	"sysctl": `grep -rs . /proc/sys/net /proc/sys/vm /proc/sys/kernel/pid_max /proc/sys/kernel/keys /proc/sys/fs/inotify | grep -v -e /random/ -e /route/flush -e /nf_conntrack_count -e nf_conntrack -e /neigh/ -e netdev_rss_key -e tcp_fastopen_key -e tcp_mem -e udp_mem`,
}

func takeInventory(ctx context.Context, g *guest) (inventory, error) {
	inv := inventory{}
	for kind, line := range inventories {
		out, err := g.sh(ctx, line)
		if err != nil {
			return nil, err
		}
		inv[kind] = strings.Split(out, "\n")
	}
	return inv, nil
}

// changes returns the lines that were added and removed since inv was taken.
func (inv inventory) changes(now inventory) []string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(inv)) {
		for _, line := range now[kind] {
			if line != "" && !slices.Contains(inv[kind], line) && !inv.newKey(kind, line) {
				all = append(all, fmt.Sprintf("%s is left: %s", kind, line))
			}
		}
		for _, line := range inv[kind] {
			if line != "" && !slices.Contains(now[kind], line) {
				all = append(all, fmt.Sprintf("%s is gone: %s", kind, line))
			}
		}
	}
	return all
}

// newKey reports whether a line is of a sysctl that did not exist before. A module that was loaded
// since has added it.
func (inv inventory) newKey(kind, line string) bool {
	key, _, _ := strings.Cut(line, ":")
	return kind == "sysctl" && !slices.ContainsFunc(inv[kind], func(l string) bool { return strings.HasPrefix(l, key+":") })
}
