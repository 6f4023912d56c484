package raftstore

import (
	"context"

	"github.com/hashicorp/raft"
)

// standAtOnce lets the only voter of a cluster stand for election without waiting for a leader that cannot be: half a
// second, and up to a second, of every first start. It tells itself what a leader that hands over tells its successor. A
// failure costs that wait and nothing else.
func (s *Store) electSoleVoter(context.Context) error {
	servers := s.servers()
	if len(servers) != 1 || string(servers[0].ID) != s.cfg.NodeID {
		return nil
	}
	if err := s.trans.in.sendToSelf(&raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.cfg.NodeID), Addr: []byte(s.cfg.NodeID),
	}}); err != nil {
		s.log.Debug("stand for election at once", "err", err)
	}
	return nil
}
