package explain

import (
	"fmt"
	"slices"

	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// PortWarnings returns one line for each node that does not answer at a port which the mesh
// publishes, with the reason, and one for each address that no node has. nodes are all nodes of the
// cluster; those that are not ready are left out.
func PortWarnings(ports []*swarmv1.PortConfig, nodes []*swarmv1.NodeInfo) []string {
	var out []string
	warn := func(text string) {
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, p := range ports {
		if !publish.ByMesh(p) {
			continue
		}
		ready, without := 0, 0
		for _, n := range nodes {
			if n.GetState().GetState() != swarmv1.NodeState_READY {
				continue
			}
			ready++
			conflicts := n.GetState().GetDescription().GetPortConflicts()
			i := slices.IndexFunc(conflicts, func(c *swarmv1.PortConflict) bool { return about(c, p) })
			if i < 0 {
				continue
			}
			switch at := fmt.Sprintf("node %s does not answer for the service: %s", n.GetNode().GetHostname(), conflicts[i].GetReason()); conflicts[i].GetKind() {
			case swarmv1.PortConflict_ELSEWHERE:
				without++
			case swarmv1.PortConflict_UNABLE:
				warn(at + "; `swarm doctor` there says what is in the way, or publish with mode=host")
			default:
				warn(at + "; stop that program, or publish another port")
			}
		}
		if ready > 0 && without == ready {
			warn(fmt.Sprintf("no node has address %s: port %s does not answer until one does", p.GetHostIp(), publish.Name(p)))
		}
	}
	return out
}

// about reports whether the conflict is about the port. It compares the addresses too, because a
// service may publish the same number on several addresses.
func about(c *swarmv1.PortConflict, p *swarmv1.PortConfig) bool {
	ip := ""
	if a := publish.Address(p); a.IsValid() {
		ip = a.String()
	}
	return c.GetPort() == p.GetPublishedPort() && c.GetProtocol() == publish.Protocol(p.GetProtocol()) && c.GetAddress() == ip
}
