package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// JudgeJoin returns why a host should not join a cluster through a manager, with the remedy, or
// nothing if every path works. self is the address by which other nodes will reach the host.
func JudgeJoin(manager Node, self string) string {
	var to, from, open []string
	reason := ""
	for _, w := range manager.Ways {
		port := fmt.Sprintf("%d/%s", w.Port, w.Network)
		switch {
		case w.Reason == "" && w.In:
			open = append(open, port)
		case w.Reason == "":
		case w.In:
			from = append(from, port)
		default:
			to = append(to, port)
		}
		if w.Reason != "" && !strings.Contains(reason, w.Reason) {
			reason = strings.TrimPrefix(reason+", "+w.Reason, ", ")
		}
	}
	name := fmt.Sprintf("%s (%s)", manager.Name, manager.Address)
	var texts []string
	switch {
	case len(from) > 0 && len(open) == 0:
		slices.Sort(from)
		texts = append(texts, fmt.Sprintf(
			"manager %s reaches this host at %s by none of its ports (%s): if that is not the address by which other nodes reach this host, name it with --advertise-addr; else accept them in the firewall of this host",
			name, self, listed(from)))
	case len(from) > 0:
		texts = append(texts, fmt.Sprintf("manager %s does not reach %s of this host at %s: accept %s in the firewall of this host",
			name, listed(from), self, them(from)))
	}
	if len(to) > 0 {
		texts = append(texts, fmt.Sprintf("this host does not reach %s of manager %s: accept %s in the firewall of %s", listed(to), name, them(to), manager.Name))
	}
	if len(texts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s, and in those of the network between, such as security groups (%s)", strings.Join(texts, "; "), reason)
}

func listed(ports []string) string {
	if len(ports) == 1 {
		return "port " + ports[0]
	}
	return "ports " + strings.Join(ports[:len(ports)-1], ", ") + " and " + ports[len(ports)-1]
}

func them(ports []string) string {
	if len(ports) == 1 {
		return "it"
	}
	return "them"
}
