package liveness

// GossipStatus is what the membership gossip says of a node.
type GossipStatus int

// The statuses of gossip. None of them decides anything alone; see Judge.
const (
	GossipUnknown GossipStatus = iota // gossip has never heard of the node
	GossipAlive
	GossipFailed // the node does not answer its peers
	GossipLeft   // the node has said goodbye
	GossipDead   // neither the node nor its host answers, so not only the daemon has failed
)

// Gossip is the membership as this node's gossip sees it.
type Gossip interface {
	// Status returns what gossip says of a node now.
	Status(nodeID string) GossipStatus
	// Changed returns two channels. The next change of any status closes one of them: members for a
	// change by gossip itself, verdicts for one of GossipFailed to GossipDead or back.
	Changed() (members, verdicts <-chan struct{})
}

// String returns the word that messages use.
func (s GossipStatus) String() string {
	switch s {
	case GossipAlive:
		return "alive"
	case GossipFailed:
		return "failed"
	case GossipLeft:
		return "left"
	case GossipDead:
		return "dead"
	default:
		return "nothing"
	}
}
