package doctor

import (
	"cmp"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// SurveyedNodes translates the daemon's report about the network paths to and from the other nodes.
// It returns no nodes for a nil report.
func SurveyedNodes(answer *swarmv1.SurveyResponse) []Node {
	var nodes []Node
	for _, n := range answer.GetNodes() {
		nodes = append(nodes, SurveyedNode(n))
	}
	return nodes
}

// SurveyedNode translates the report about one node. A node without a hostname is named by its
// ID.
func SurveyedNode(n *swarmv1.SurveyedNode) Node {
	return Node{
		Name: cmp.Or(n.GetHostname(), n.GetNodeId()), Address: n.GetAddr(), Problem: n.GetError(), Offset: n.GetClockOffset().AsDuration(), RoundTrip: n.GetRoundTrip().AsDuration(),
		Ways: slices.Concat(ways(n.GetOut(), false), ways(n.GetIn(), true)),
	}
}

func ways(tried []*swarmv1.TriedWay, in bool) []Way {
	var out []Way
	for _, w := range tried {
		out = append(out, Way{
			Network: w.Network, Port: uint16(w.Port), For: w.Purpose, In: in, Bytes: int(w.Bytes), Reason: w.Error,
		})
	}
	return out
}
