//go:build linux

package member

import (
	"time"

	"swarm/manager/ca"
	"swarm/node"
	"swarm/raftstore/table"
)

// Bootstrap makes the first rows of a new cluster, for node.Deps.
func Bootstrap(r node.BootstrapRequest) (node.Bootstrapped, error) {
	founding, err := ca.NewCluster(ca.BootstrapConfig{
		ClusterID: r.ClusterID, NodeID: r.NodeID, Spec: r.Init.GetSpec(), Format: table.Format, CSR: r.CSR,
		MachineID: r.MachineID, Hostname: r.Hostname, Addr: r.Membership.Addr, Port: uint32(r.Membership.Port),
		DataPathAddr: r.Membership.DataPathAddr, Availability: r.Init.GetAvailability(),
	}, time.Now())
	if err != nil {
		return node.Bootstrapped{}, err
	}
	out := node.Bootstrapped{
		Rows: founding.Changes, Certificate: founding.Certificate, Bundle: founding.Bundle,
		WorkerToken: founding.Cluster.GetRootCa().GetJoinTokens().GetWorker(),
	}
	for _, key := range founding.Cluster.GetGossipKeys() {
		out.GossipKeys = append(out.GossipKeys, key.GetKey())
	}
	return out, nil
}
