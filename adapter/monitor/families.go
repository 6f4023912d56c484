//go:build linux

package monitor

import "swarm/internal/metrics"

// families are all metrics of the daemon except those of its process and Go runtime.
// docs/metrics.md lists them.
type families struct {
	all []*metrics.Family

	build, hostTasks, connected, index, images, members, health *metrics.Family

	networkTasks, networkPeers, conflicts, programTime, programFailures *metrics.Family
	networkIn, networkOut                                               trafficFamilies
	taskIn, taskOut                                                     trafficFamilies
	accepted, made, open, begunIn, begunOut                             *metrics.Family
	dnsQueries, dnsAnswers, dnsFailures, dnsContainers, taskDNS         *metrics.Family

	leads, hasLeader, term, last, committed, applied, voters, commitTime *metrics.Family
	sessions, badTokens, nodes, tasks, services                          *metrics.Family
}

// trafficFamilies are the metrics of one direction of traffic.
type trafficFamilies struct{ bytes, packets, dropped *metrics.Family }

func newFamilies() *families {
	const g, c, h = metrics.Gauge, metrics.Counter, metrics.Histogram
	var all []*metrics.Family
	family := func(kind metrics.Kind, name, help string, labels ...string) *metrics.Family {
		f := &metrics.Family{Name: name, Help: help, Kind: kind, Labels: labels}
		all = append(all, f)
		return f
	}
	trafficFamily := func(prefix, verb, help string, labels ...string) trafficFamilies {
		return trafficFamilies{
			bytes:   family(c, prefix+verb+"_bytes_total", "Bytes "+help+".", labels...),
			packets: family(c, prefix+verb+"_packets_total", "Packets "+help+".", labels...),
			dropped: family(c, prefix+verb+"_drop_total", "Packets dropped of those "+help+".", labels...),
		}
	}
	f := &families{
		build:     family(g, "swarm_build_info", "The build of this daemon; always 1.", "version", "build"),
		hostTasks: family(g, "swarm_node_tasks", "Tasks on this node.", "state"),
		connected: family(g, "swarm_node_connected", "1 while this node has a session with a manager."),
		index:     family(g, "swarm_node_state_index", "Index of the newest state of the managers that this node has applied."),
		images:    family(g, "swarm_node_images", "Images on this node."),
		members:   family(g, "swarm_gossip_members", "Nodes as gossip sees them.", "status"),
		health:    family(g, "swarm_gossip_health_score", "How ill gossip thinks that this node itself is; 0 is well."),

		networkTasks:    family(g, "swarm_network_tasks", "Tasks of this node on an overlay network.", "network"),
		networkPeers:    family(g, "swarm_network_peers", "Hosts that this node sends packets of an overlay network to.", "network"),
		networkIn:       trafficFamily("swarm_network_", "receive", "from other hosts on an overlay network", "network"),
		networkOut:      trafficFamily("swarm_network_", "transmit", "to other hosts on an overlay network", "network"),
		conflicts:       family(g, "swarm_published_port_conflicts", "Ports published on all nodes that this host does not answer at: another program has them, or the kernel lacks something."),
		programTime:     family(h, "swarm_network_program_duration_seconds", "How long it took to write a change that concerns a network to the kernel; ingress is the routing mesh.", "network"),
		programFailures: family(c, "swarm_network_program_failures_total", "Changes that could not be written at once, and were tried again.", "network"),
		taskIn:          trafficFamily("swarm_task_network_", "receive", "that a task received on a network", "network", "service", "task"),
		taskOut:         trafficFamily("swarm_task_network_", "transmit", "that a task sent on a network", "network", "service", "task"),
		begunIn:         family(c, "swarm_task_network_receive_connections_total", "Connections to a task that began on a network.", "network", "service", "task"),
		begunOut:        family(c, "swarm_task_network_transmit_connections_total", "Connections of a task that began on a network.", "network", "service", "task"),
		accepted:        family(c, "swarm_task_tcp_accepted_total", "TCP connections made to a task.", "service", "task"),
		made:            family(c, "swarm_task_tcp_connected_total", "TCP connections that a task made.", "service", "task"),
		open:            family(g, "swarm_task_tcp_connections", "TCP connections that a task has open.", "service", "task"),
		dnsQueries:      family(c, "swarm_dns_queries_total", "Questions of this node's containers."),
		dnsAnswers:      family(c, "swarm_dns_answers_total", "Answers to this node's containers.", "source"),
		dnsFailures:     family(c, "swarm_dns_failures_total", "Questions that no other name server answered."),
		dnsContainers:   family(g, "swarm_dns_containers", "Containers whose questions are answered."),
		taskDNS:         family(c, "swarm_task_dns_queries_total", "Questions of a task, by the network that answers; without a network, those that none of its knows.", "network", "service", "task"),

		leads:      family(g, "swarm_raft_leader", "1 on the manager that leads."),
		hasLeader:  family(g, "swarm_raft_has_leader", "1 while this manager knows a leader; without one nothing can be changed."),
		term:       family(g, "swarm_raft_term", "Raft's term: grows with each election."),
		last:       family(g, "swarm_raft_last_log_index", "Index of the newest entry in this manager's log."),
		committed:  family(g, "swarm_raft_commit_index", "Index of the newest entry that most managers have, as this one knows."),
		applied:    family(g, "swarm_raft_applied_index", "Index of the newest entry in this manager's state."),
		voters:     family(g, "swarm_raft_voters", "Managers that vote."),
		commitTime: family(h, "swarm_raft_commit_duration_seconds", "From the proposal of an entry by this leader to its being applied here."),
		sessions:   family(g, "swarm_manager_sessions", "Workers connected to this manager."),
		badTokens:  family(c, "swarm_manager_wrong_join_tokens_total", "Calls to join, or to have the ways tried before, that this manager refused because they proved no current join token."),
		nodes:      family(g, "swarm_cluster_nodes", "Nodes of the cluster; on the leader.", "state"),
		tasks:      family(g, "swarm_cluster_tasks", "Tasks of the cluster; on the leader.", "state"),
		services:   family(g, "swarm_cluster_services", "Services of the cluster; on the leader."),
	}
	f.all = all
	return f
}
