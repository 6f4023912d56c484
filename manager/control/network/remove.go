package network

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// RemoveNetwork removes a network. It returns ErrFailedPrecondition if a service or a task uses it.
func (s *Server) RemoveNetwork(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if spec.IsLocalNetwork(req.GetId()) {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("network %s is built in, every node has it: it cannot be removed", req.GetId()))
	}
	found, err := object.Networks().Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.removeNetwork(ctx, found); err != nil {
		return nil, fmt.Errorf("remove network %s: %w", found.GetSpec().GetName(), err)
	}
	return &swarmv1.RemoveResponse{}, nil
}

func (s *Server) removeNetwork(ctx context.Context, found *swarmv1.Network) error {
	if found.GetSpec().GetIngress() {
		return errdefs.ErrPermissionDenied.WithMessage("published ports need it: it cannot be removed")
	}
	return object.Networks().Remove(ctx, s.writer, found, func(v *table.View, n *swarmv1.Network) ([]*swarmv1.Change, error) {
		if users := usersOf(v, n.GetId()); len(users) > 0 {
			return nil, object.InUse(users, func(service string) string {
				return fmt.Sprintf("remove what uses it, or take it off the network with `swarm service update --network-rm %s %s`", n.GetSpec().GetName(), service)
			})
		}
		return nil, nil
	})
}

// usersOf returns the services that are attached to a network, or have a task that still is.
func usersOf(v *table.View, network string) []*swarmv1.Service {
	var out []*swarmv1.Service
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		if object.OnNetwork(rev, network) || hasTaskOn(v, svc.GetId(), network) {
			out = append(out, svc)
		}
	}
	return out
}

func hasTaskOn(v *table.View, service, network string) bool {
	for t := range v.TasksOfService(service) {
		if attached(t, network) && !object.Ended(v, t) {
			return true
		}
	}
	return false
}

// PruneNetworks removes the networks that the filter matches and nothing uses, and returns their
// names.
func (s *Server) PruneNetworks(ctx context.Context, req *swarmv1.PruneNetworksRequest) (*swarmv1.PruneNetworksResponse, error) {
	out := &swarmv1.PruneNetworksResponse{}
	for n := range object.Networks().Matching(s.store.View(), req.GetFilter()) {
		if n.GetSpec().GetIngress() {
			continue
		}
		err := s.removeNetwork(ctx, n)
		switch {
		case err == nil:
			out.Removed = append(out.Removed, n.GetSpec().GetName())
		case !errdefs.IsFailedPrecondition(err):
			return out, fmt.Errorf("remove network %s: %w", n.GetSpec().GetName(), err)
		}
	}
	slices.Sort(out.Removed)
	return out, nil
}
