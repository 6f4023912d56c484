package raftstore

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"swarm/raftstore/table"
)

// timeoutError explains why a request had no answer within Timeouts.Leader. cause is the error of
// an earlier attempt, or nil. The error is errdefs.ErrUnavailable.
func (s *Store) timeoutError(cause error) error {
	leader := s.Leader()
	switch text := s.notStoring(); {
	case leader == "":
		return s.noLeaderError()
	case leader == s.cfg.NodeID && text != "":
		return errdefs.ErrUnavailable.WithMessage(text)
	case cause == nil:
		cause = errors.New("see the log of its daemon")
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the leader %s gives no result within %s: %v", nodeName(s.View(), leader), s.cfg.Timeouts.Leader, cause))
}

// noLeaderError explains why no leader accepts a request: this member's disk fails, or the cluster
// has no leader.
func (s *Store) noLeaderError() error {
	if err := s.writeErr(); err != nil {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s cannot write its disk (%v): free or repair it, or ask another manager", nodeName(s.View(), s.cfg.NodeID), err))
	}
	return errNoLeader
}

// writeErr returns why this member's disk accepts no writes, or nil.
func (s *Store) writeErr() error {
	return cmp.Or(s.stable.WriteErr(), s.disk.WriteErr())
}

// notStoring names the voters that do not store entries, and the reason if it is known. It returns
// "" if there are none. The leader knows them; another member knows only itself.
func (s *Store) notStoring() string {
	view := s.View()
	var names []string
	voters := 0
	for _, sv := range s.servers() {
		if sv.Suffrage != raft.Voter {
			continue
		}
		voters++
		if why := s.notStoringReason(view, sv.ID); why != "" {
			names = append(names, fmt.Sprintf("%s (%s)", nodeName(view, string(sv.ID)), why))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of the %d managers do not store changes, and more than half must: %s", len(names), voters, strings.Join(names, ", "))
}

// notStoringReason returns why a voter does not store entries, or "" if it does.
func (s *Store) notStoringReason(view *table.View, id raft.ServerID) string {
	if string(id) == s.cfg.NodeID {
		if err := s.writeErr(); err != nil {
			return "it cannot write its disk: " + err.Error()
		}
		return ""
	}
	st, _ := view.NodeStates.Get(string(id))
	switch {
	case !s.peers.reachable(id):
		return "it cannot be reached: see that its host is up and its daemon runs"
	case s.trans.Stores(id):
		return ""
	default:
		return cmp.Or(st.GetDescription().GetUnavailable(), "see the log of its daemon")
	}
}

// nodeName returns the hostname of a node, or its id if it has no hostname.
func nodeName(view *table.View, id string) string {
	n, _ := view.Nodes.Get(id)
	return cmp.Or(n.GetHostname(), id)
}
