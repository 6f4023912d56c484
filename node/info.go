package node

import swarmv1 "swarm/proto/swarm/v1"

func (m *member) info(info *swarmv1.InfoResponse) {
	state := m.membership()
	info.LocalNodeState, info.NodeId, info.NodeAddr, info.ClusterId = "active", state.NodeID, state.Addr, state.ClusterID
	info.Members = m.gossip.Members()
	info.Tasks = uint64(m.worker.Tasks())
	if err := m.managerRefusal(); err != nil {
		info.Error = err.Error()
	}
	if state.Manager {
		info.Role = swarmv1.NodeSpec_MANAGER
	}
	if manager, _ := m.currentManager(); manager != nil {
		status := manager.Status()
		info.ControlAvailable, info.LeaderId = status.Voter, status.Leader
		info.Managers, info.Nodes = uint32(status.Managers), uint32(status.Nodes)
	}
}
