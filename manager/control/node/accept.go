package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/facts"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// AcceptNode makes the pending facts of a node the accepted ones, by which tasks are placed. It
// returns ErrInvalidArgument if the request has no facts, and ErrFailedPrecondition if nothing is
// pending. It also returns ErrFailedPrecondition if the node reports other facts than the request
// has: a node must not swap them after the operator has seen them.
func (s *Server) AcceptNode(ctx context.Context, req *swarmv1.AcceptNodeRequest) (*swarmv1.NodeInfo, error) {
	if req.GetFacts() == nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("accept a node: give the facts that it has reported")
	}
	found, err := s.nodes.Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	name := object.Hostname(found)
	var changes []string
	_, err = s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		st, _ := v.NodeStates.Get(found.GetId())
		pending := st.GetPending()
		if pending == nil {
			return nil, errdefs.ErrFailedPrecondition.WithMessage("nothing is pending")
		}
		if other := facts.Changes(pending, req.GetFacts()); len(other) > 0 {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"the node has reported something else meanwhile: see it with `swarm node inspect --pretty %s`, and accept again", name))
		}
		changes = facts.Changes(facts.Of(st.GetDescription()), pending)
		st = st.CloneVT()
		st.Description, st.Pending = facts.With(st.GetDescription(), pending), nil
		return []*swarmv1.Change{table.Update(st)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("accept node %s: %w", name, err)
	}
	s.log.Info("node facts accepted", "node", found.GetId(), "hostname", name, "changes", strings.Join(changes, "; "), "actor", crud.Actor(ctx))
	return s.GetNode(ctx, &swarmv1.GetRequest{Id: found.GetId()})
}
