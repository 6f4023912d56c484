package cli

import (
	"context"
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
)

// warnPorts names the nodes on which another program answers at a port of the service. The service is there all the same:
// that this cannot be found out fails nothing.
func (a *app) warnPorts(ctx context.Context, c client, s *swarmv1.ServiceInfo) {
	meshed := map[string]bool{}
	for _, p := range s.GetEndpoint().GetPorts() {
		if p.GetPublishMode() != swarmv1.PortConfig_HOST {
			meshed[portKey(p.GetPublishedPort(), enumWord(p.GetProtocol()))] = true
		}
	}
	if len(meshed) == 0 {
		return
	}
	r, err := c.ListNodes(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return
	}
	for _, n := range r.GetNodes() {
		if n.GetState().GetState() != swarmv1.NodeState_READY {
			continue
		}
		for _, conflict := range n.GetState().GetDescription().GetPortConflicts() {
			if meshed[portKey(conflict.GetPort(), conflict.GetProtocol())] {
				a.warn([]string{fmt.Sprintf("node %s does not answer for the service: %s; stop that program, or publish another port",
					nodeHostname(n), conflict.GetReason())})
			}
		}
	}
}

func portKey(port uint32, protocol string) string { return fmt.Sprintf("%d/%s", port, protocol) }
