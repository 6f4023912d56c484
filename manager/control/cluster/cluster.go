package cluster

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/manager/ca"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Store  *raftstore.Store
	Writer *crud.Writer
}

// Server serves the RPCs of the cluster as a whole.
type Server struct {
	store  *raftstore.Store
	writer *crud.Writer
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{store: deps.Store, writer: deps.Writer}
}

// GetCluster returns the cluster without private keys. It has the join tokens, because everybody
// who may call it may also add nodes. It returns ErrUnavailable if this manager does not have the
// state yet.
func (s *Server) GetCluster(_ context.Context, _ *swarmv1.GetRequest) (*swarmv1.Cluster, error) {
	c := s.store.View().Cluster()
	if c == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager has not received the cluster's state yet: try again, or ask another manager")
	}
	return object.ShownCluster(c), nil
}

// UpdateCluster writes the settings of the cluster, and rotates the join tokens that the request
// names. If the request has no spec, the settings stay as they are.
func (s *Server) UpdateCluster(ctx context.Context, req *swarmv1.UpdateClusterRequest) (*swarmv1.Cluster, error) {
	var wanted *swarmv1.ClusterSpec
	if req.GetSpec() != nil {
		var err error
		if wanted, err = spec.Cluster(req.GetSpec()); err != nil {
			return nil, err
		}
	}
	_, err := s.writer.Write(ctx, req.GetVersion(), func(v *table.View) ([]*swarmv1.Change, error) {
		c := v.Cluster()
		if c == nil {
			return nil, errdefs.ErrUnavailable.WithMessage("the cluster is being created: try again")
		}
		if err := crud.CheckVersion("cluster", c.GetSpec().GetName(), req.GetVersion(), c.GetMeta().GetVersion()); err != nil {
			return nil, err
		}
		row := c.CloneVT()
		if wanted != nil {
			row.Spec = wanted
		}
		if err := ca.RotateTokens(row.RootCa, req.GetRotateWorkerToken(), req.GetRotateManagerToken()); err != nil {
			return nil, err
		}
		if row.EqualVT(c) {
			return nil, nil
		}
		return []*swarmv1.Change{table.Update(row)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("update cluster: %w", err)
	}
	return s.GetCluster(ctx, nil)
}
