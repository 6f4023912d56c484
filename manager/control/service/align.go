package service

import (
	"context"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// AlignEndpoints is a duty of the leader. When the planner has rolled a service back, it gives the
// service the ports of its current revision, and virtual IPs on the networks of that revision. It
// returns when ctx ends, or with an error.
//
// The API changes revision and endpoint in one group. The planner changes the revision alone,
// because another service may publish the port by now, and a rollback must not wait for that. While
// the service lacks a port or an address, the field Unmet of its endpoint says why. AlignEndpoints
// tries again whenever any claim is deleted.
func (s *Server) AlignEndpoints(ctx context.Context) error {
	view, w := s.store.Watch(table.Service, table.Claim)
	defer w.Close()
	waiting := map[string]bool{} // by service
	align := func(id string) error {
		met, err := s.align(ctx, id)
		if waiting[id] = !met; met {
			delete(waiting, id)
		}
		return err
	}
	for svc := range view.Services.All() {
		if err := align(svc.GetId()); err != nil {
			return err
		}
	}
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		due := map[string]bool{}
		for _, c := range batch.Changes {
			switch {
			case c.Table == table.Service && c.New != nil:
				due[c.Key] = true
			case c.Table == table.Claim && c.New == nil:
				maps.Copy(due, waiting)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(due)) {
			if err := align(id); err != nil {
				return err
			}
		}
	}
}

// align gives one service what its revision asks for. met is false if that is not possible now.
func (s *Server) align(ctx context.Context, id string) (met bool, err error) {
	err = s.alignTo(ctx, func(v *table.View) ([]*swarmv1.Change, error) {
		rev, endpoint := endpointOf(v, id)
		if rev == nil || aligned(v, endpoint, rev.GetSpec()) && endpoint.GetUnmet() == "" {
			return nil, nil
		}
		return s.updateEndpoint(v, id, rev.GetSpec())
	})
	if !errdefs.IsAlreadyExists(err) && !errdefs.IsResourceExhausted(err) && !errdefs.IsFailedPrecondition(err) {
		return err == nil, err
	}
	why, changed := err.Error(), false
	err = s.alignTo(ctx, func(v *table.View) ([]*swarmv1.Change, error) {
		rev, endpoint := endpointOf(v, id)
		if rev == nil || endpoint.GetUnmet() == why || aligned(v, endpoint, rev.GetSpec()) {
			return nil, nil
		}
		row := endpoint.CloneVT()
		row.Unmet, changed = why, true
		return []*swarmv1.Change{table.Update(row)}, nil
	})
	if changed {
		s.log.Warn("a service that was rolled back cannot have its former ports and addresses yet", "service", id, "err", why)
	}
	return false, err
}

// alignTo commits the changes if there are any. A service that does not exist any more is no error.
func (s *Server) alignTo(ctx context.Context, changes func(*table.View) ([]*swarmv1.Change, error)) error {
	if c, err := changes(s.store.View()); err == nil && len(c) == 0 {
		return nil
	}
	_, err := s.writer.Write(ctx, 0, changes)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// endpointOf returns the current revision and the endpoint of a service. They are nil if the
// service does not exist any more, or is being removed.
func endpointOf(v *table.View, id string) (*swarmv1.Revision, *swarmv1.Endpoint) {
	row, ok := v.Services.Get(id)
	if !ok || row.GetPendingDelete() {
		return nil, nil
	}
	rev, ok := v.Revision(id, row.GetRevision())
	endpoint, has := v.Endpoints.Get(id)
	if !ok || !has {
		return nil, nil
	}
	return rev, endpoint
}

// aligned reports whether an endpoint has the ports and the networks of a spec.
func aligned(v *table.View, e *swarmv1.Endpoint, sp *swarmv1.ServiceSpec) bool {
	if !e.GetSpec().EqualVT(sp.GetEndpointSpec()) {
		return false
	}
	want, have := make(map[string]bool), make(map[string]bool)
	for _, n := range vipNetworks(v, sp) {
		want[n.GetId()] = true
	}
	for _, ip := range e.GetVirtualIps() {
		have[ip.GetNetworkId()] = true
	}
	return maps.Equal(want, have)
}
