package network

import (
	"context"
	"fmt"

	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// MakeIngress is a duty of the leader. If network ingress does not exist, it creates the network,
// which published ports use. It first waits until a node is ready: the node has then reported the
// ranges that it routes, and the subnet must not overlap these. It returns when ctx ends, or with
// an error.
func (s *Server) MakeIngress(ctx context.Context) error {
	view, w := s.store.Watch(table.Cluster, table.NodeState)
	defer w.Close()
	for !ready(view) {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		view = batch.View
	}
	id, random := ident.NewID(), ulaBits()
	_, err := s.writer.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		if _, ok := v.Networks.ByName(spec.Ingress); ok {
			return nil, nil
		}
		row, claims, err := newNetwork(v, id, &swarmv1.NetworkSpec{
			Name: spec.Ingress, DriverConfig: &swarmv1.Driver{Name: "overlay"}, Ingress: true, Ipv6Enabled: true,
		}, random)
		if err != nil {
			return nil, err
		}
		return append(claims, table.Create(row)), nil
	})
	if err != nil {
		return fmt.Errorf("create network %s: %w", spec.Ingress, err)
	}
	<-ctx.Done()
	return ctx.Err()
}

// ready reports whether the cluster exists and one of its nodes is ready.
func ready(v *table.View) bool {
	if v.Cluster() == nil {
		return false
	}
	for st := range v.NodeStates.All() {
		if st.GetState() == swarmv1.NodeState_READY {
			return true
		}
	}
	return false
}
