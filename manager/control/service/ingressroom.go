package service

import (
	"fmt"
	"slices"

	"swarm/internal/publish"
	"swarm/internal/spec"
	"swarm/manager/control/address"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// ingressRoom returns a warning if the mesh publishes one of the ports, but some nodes have no
// address on network ingress, because the network is full.
func ingressRoom(v *table.View, ports []*swarmv1.PortConfig) []string {
	n, ok := v.Networks.ByName(spec.Ingress)
	if !ok || !slices.ContainsFunc(ports, publish.ByMesh) {
		return nil
	}
	for _, u := range address.Use(v, n) {
		lacking := v.Nodes.Len() - len(address.OfNodes(v))
		if u.GetUsed() >= u.GetTotal() && lacking > 0 {
			return []string{fmt.Sprintf("network ingress is full (%d of %d addresses of %s are in use): %d nodes have no address there: clients cannot use published ports on them, nor reach their containers from other nodes' ports; "+
				"remove nodes that are gone with `swarm node rm`; a cluster for more nodes begins with `swarm init --default-addr-pool-mask-length 20`",
				u.GetUsed(), u.GetTotal(), u.GetSubnet(), lacking)}
		}
	}
	return nil
}
