// Package nodecall lets the users' API call the services of the cluster's nodes: it finds the nodes
// that a user names, connects to them, and asks many at once. If a node does not answer, only its
// part of the result is missing, and the result has the reason.
//
// The callers, which are the packages below manager/control, choose the RPC. Goroutines: those of
// Each, which end before it returns.
package nodecall

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// maxParallel is how many nodes Each asks at once.
const maxParallel = 32

// Caller reaches the nodes of the cluster from one manager.
type Caller struct {
	self  string
	store *raftstore.Store
	conn  func(nodeID string) (grpc.ClientConnInterface, error)
}

// New makes a Caller. self is the id of this manager's node. conn returns a connection to a node;
// the Caller does not close it.
func New(self string, store *raftstore.Store, conn func(nodeID string) (grpc.ClientConnInterface, error)) *Caller {
	return &Caller{self: self, store: store, conn: conn}
}

// Self returns the id of this manager's node.
func (c *Caller) Self() string { return c.self }

// Conn returns a connection to the services of a node.
func (c *Caller) Conn(nodeID string) (grpc.ClientConnInterface, error) { return c.conn(nodeID) }

// Find returns the node that ref refers to. "self" is this manager's node.
func (c *Caller) Find(v *table.View, ref string) (*swarmv1.Node, error) {
	if ref == "self" {
		ref = c.self
	}
	return object.Nodes().Find(v, ref)
}

// Select returns the nodes that refs refer to, or all nodes if there are no refs, ordered by name.
func (c *Caller) Select(v *table.View, refs []string) ([]*swarmv1.Node, error) {
	var out []*swarmv1.Node
	for _, ref := range refs {
		n, err := c.Find(v, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	if len(refs) == 0 {
		out = slices.Collect(v.Nodes.All())
	}
	slices.SortFunc(out, func(a, b *swarmv1.Node) int {
		return cmp.Or(cmp.Compare(object.NodeName(v, a.GetId()), object.NodeName(v, b.GetId())), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out, nil
}

// Each calls ask once for every node, up to maxParallel at the same time, and returns when all
// calls have returned. i is the index of the node in nodes. The ctx of each call ends after
// timeout. If a node is not ready or cannot be reached, err says so and conn is nil.
func (c *Caller) Each(ctx context.Context, nodes []*swarmv1.Node, timeout time.Duration,
	ask func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error),
) {
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for i, n := range nodes {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if st, _ := c.store.View().NodeStates.Get(n.GetId()); st.GetState() != swarmv1.NodeState_READY {
				ask(ctx, i, nil, errdefs.ErrUnavailable.WithMessage("it is "+strings.ToLower(st.GetState().String())))
				return nil
			}
			conn, err := c.conn(n.GetId())
			if err != nil {
				ask(ctx, i, nil, err)
				return nil
			}
			ask(ctx, i, conn, nil)
			return nil
		})
	}
	_ = g.Wait() // There is no error: ask keeps the error of its node.
}

// ErrorText returns the text of a node's error, cut to bounds.MaxText bytes. It is "" for nil.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	return bounds.Text(err.Error(), bounds.MaxText)
}
