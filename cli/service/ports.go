package service

import (
	"context"
	"fmt"
	"slices"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// warnPorts warns of nodes that do not answer at a port of the service, with the reason, and of
// addresses that no node has. If it cannot find out, it warns of nothing, because the service works
// all the same.
func warnPorts(ctx context.Context, deps *command.Deps, c command.Client, s *swarmv1.ServiceInfo) {
	ports := slices.DeleteFunc(slices.Clone(s.GetEndpoint().GetPorts()), func(p *swarmv1.PortConfig) bool {
		return p.GetPublishMode() == swarmv1.PortConfig_HOST
	})
	if len(ports) == 0 {
		return
	}
	r, err := c.ListNodes(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return
	}
	said := map[string]bool{}
	warn := func(text string) {
		if !said[text] {
			deps.Warn([]string{text})
		}
		said[text] = true
	}
	for _, p := range ports {
		nodes, without := 0, 0
		for _, n := range r.GetNodes() {
			if n.GetState().GetState() != swarmv1.NodeState_READY {
				continue
			}
			nodes++
			conflicts := n.GetState().GetDescription().GetPortConflicts()
			i := slices.IndexFunc(conflicts, func(c *swarmv1.PortConflict) bool { return concerns(c, p) })
			if i < 0 {
				continue
			}
			switch at := fmt.Sprintf("node %s does not answer for the service: %s", term.NodeHostname(n), conflicts[i].GetReason()); conflicts[i].GetKind() {
			case swarmv1.PortConflict_ELSEWHERE:
				without++
			case swarmv1.PortConflict_UNABLE:
				warn(at + "; `swarm doctor` there says what is in the way, or publish with mode=host")
			default:
				warn(at + "; stop that program, or publish another port")
			}
		}
		if nodes > 0 && without == nodes {
			warn(fmt.Sprintf("no node has address %s: port %d/%s does not answer until one does", p.GetHostIp(), p.GetPublishedPort(), term.EnumWord(p.GetProtocol())))
		}
	}
}

// concerns reports whether the conflict is about the port. Several ports may have one number, each
// on an address of its own.
func concerns(c *swarmv1.PortConflict, p *swarmv1.PortConfig) bool {
	ip := ""
	if a := spec.HostIP(p); a.IsValid() {
		ip = a.String()
	}
	return c.GetPort() == p.GetPublishedPort() && c.GetProtocol() == term.EnumWord(p.GetProtocol()) && c.GetAddress() == ip
}
