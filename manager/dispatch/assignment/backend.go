package assignment

import (
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// backendOf returns what other nodes receive about a task. It returns nil when the task is not
// placed, has ended, or cannot be reached from other nodes: it is on no overlay network, and its
// service publishes no port on all nodes.
func backendOf(view *table.View, id string, published bool) *swarmv1.Backend {
	t, ok := view.Tasks.Get(id)
	st := view.Status(id)
	if !ok || t.GetNodeId() == "" || !isPlaced(st) || !published && len(overlaysOf(t.GetNetworks())) == 0 {
		return nil
	}
	return &swarmv1.Backend{
		TaskId: id, ServiceId: t.GetServiceId(), NodeId: t.GetNodeId(), Slot: t.GetSlot(), Networks: t.GetNetworks(),
		Ready:    st.GetReady() && t.GetDesiredState() == swarmv1.TaskState_RUNNING,
		Hostname: hostname(view, t),
	}
}

// hostname returns the hostname that the task's service sets for its container. It is empty when
// the service sets none, or one whose template fails: such a task is rejected by its worker.
func hostname(view *table.View, t *swarmv1.Task) string {
	rev, _ := view.Revision(t.GetServiceId(), t.GetRevision())
	if rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetHostname() == "" {
		return ""
	}
	row, _ := view.Nodes.Get(t.GetNodeId())
	st, _ := view.NodeStates.Get(t.GetNodeId())
	platform := st.GetDescription().GetPlatform()
	node := template.Node{ID: t.GetNodeId(), Hostname: row.GetHostname(), OS: platform.GetOs(), Arch: platform.GetArchitecture()}
	name, err := template.Hostname(rev, t, node)
	if err != nil {
		return ""
	}
	return name
}
