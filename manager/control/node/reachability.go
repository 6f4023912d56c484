package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Gossip is the failure detector. Alive reports whether a node answers; known is false if gossip
// does not know the node.
type Gossip interface {
	Alive(nodeID string) (alive, known bool)
}

// reachability returns what this manager knows of another manager as a member of Raft.
func (s *Server) reachability(v *table.View, id string) swarmv1.ManagerStatus_Reachability {
	servers := s.store.Servers()
	at := slices.IndexFunc(servers, func(m raftstore.Server) bool { return m.ID == id })
	votes := at >= 0 && servers[at].Voter
	switch {
	case id == s.nodes.Self(), id == s.store.Leader():
	case votes && s.store.IsLeader(): // Raft's heartbeats decide.
		if !servers[at].Reachable {
			return swarmv1.ManagerStatus_UNREACHABLE
		}
	case !s.alive(v, id):
		return swarmv1.ManagerStatus_UNREACHABLE
	}
	if !votes {
		return swarmv1.ManagerStatus_CATCHING_UP
	}
	return swarmv1.ManagerStatus_REACHABLE
}

// alive reports whether a node answers. If gossip does not know the node, alive uses the state that
// the leader has written to the store.
func (s *Server) alive(v *table.View, id string) bool {
	if s.gossip != nil {
		if alive, known := s.gossip.Alive(id); known {
			return alive
		}
	}
	st, _ := v.NodeStates.Get(id)
	return st.GetState() == swarmv1.NodeState_READY
}

// StaleNotice returns the text for users whose read the leader did not confirm. It says how long
// there has been no leader, and which managers do not answer.
func (s *Server) StaleNotice() string {
	view := s.store.View()
	what := "the leader does not answer"
	if since := s.store.LeaderlessSince(); !since.IsZero() {
		what = fmt.Sprintf("there has been no leader for %s", time.Since(since).Round(time.Second))
	}
	var missing []string
	for _, m := range s.store.Servers() {
		if m.ID != s.nodes.Self() && !s.alive(view, m.ID) {
			missing = append(missing, object.NodeName(view, m.ID))
		}
	}
	text := fmt.Sprintf("manager %s cannot confirm this with the others: %s", object.NodeName(view, s.nodes.Self()), what)
	if len(missing) > 0 {
		slices.Sort(missing)
		text += "; managers that do not answer: " + strings.Join(missing, ", ")
	}
	return text
}
