package control

import swarmv1 "swarm/proto/swarm/v1"

// The nouns implement every RPC of Control: without UnimplementedControlServer, this compiles only
// if none is missing, and none is in two nouns.
var _ swarmv1.ControlServer = struct {
	*services
	*networks
	*nodes
	*images
	*tasks
	*clusters
	*files
	*jobs
	*watches
	swarmv1.UnsafeControlServer
}{}
