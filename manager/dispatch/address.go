package dispatch

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/containerd/errdefs"

	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// takeOverAddress writes the new address of a node into its row if the node's address has changed,
// for example by DHCP. The node's certificate has proved which node calls. Its answer at the new
// address proves that the address is the node's. A node that does not answer there gets no session,
// and so no tasks, because other nodes would not reach the tasks either.
func (s *Server) takeOverAddress(ctx context.Context, id string, hello *swarmv1.Hello) error {
	for range openAttempts {
		view := s.deps.Store.View()
		next, err := ca.UpdatedAddress(view, id, hello)
		if err != nil || next == nil {
			return err
		}
		at := net.JoinHostPort(next.GetAddr(), strconv.Itoa(int(next.GetPort())))
		if s.deps.Answers != nil {
			if err := s.deps.Answers(ctx, id, at); err != nil {
				return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
					"the node has another address now, %s, and does not answer there: %v: does a firewall block it? run `swarm doctor` on the node", at, err))
			}
		}
		before, _ := view.Nodes.Get(id)
		_, err = s.deps.Store.Commit(ctx, "address of node "+id, table.Update(next))
		switch {
		case err == nil:
			s.note(id, "node has another address", "node", id, "addr", next.GetAddr(), "before", before.GetAddr(), "data_path_addr", next.GetDataPathAddr())
			return nil
		case errdefs.IsNotFound(err):
			return errRemoved
		case !errdefs.IsAborted(err):
			return fmt.Errorf("take over the address of node %s: %w", id, err)
		}
		if _, err = s.freshView(ctx, id); err != nil {
			return err
		}
	}
	return errdefs.ErrUnavailable.WithMessage("take over the address of node " + id + ": its row keeps changing: try again")
}
