package service

import (
	"context"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// AlignEndpoints is a duty of the leader (see manager.Manager.lead). When the planner has rolled a
// service back, AlignEndpoints gives the service the ports of its current revision, and virtual IPs
// on the networks of that revision. It returns when ctx ends, or with an error.
//
// The API changes the revision and the endpoint of a service in one group. The planner changes only
// the revision, because another service may publish the port by now, and a rollback must not wait
// for that. While the service lacks a port or an address, the field Unmet of its endpoint says why.
// AlignEndpoints tries again whenever any claim is deleted.
func (s *Server) AlignEndpoints(ctx context.Context) error {
	view, w := s.store.Watch(table.Service, table.Claim)
	defer w.Close()
	due, lacking := map[string]bool{}, map[string]bool{} // ids of services
	for svc := range view.Services.All() {
		due[svc.GetId()] = true
	}
	for {
		for _, id := range slices.Sorted(maps.Keys(due)) {
			unmet, err := s.alignEndpoint(ctx, id)
			if err != nil {
				return err
			}
			if unmet == "" {
				delete(lacking, id)
			} else {
				lacking[id] = true
			}
		}
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		clear(due)
		for _, c := range batch.Changes {
			switch {
			case c.Table == table.Service && c.New != nil:
				due[c.Key] = true
			case c.Table == table.Claim && c.New == nil:
				maps.Copy(due, lacking)
			}
		}
	}
}

// alignEndpoint gives one service the ports and addresses of its revision. If the service cannot
// have them now, unmet says why, and alignEndpoint writes that to the endpoint.
func (s *Server) alignEndpoint(ctx context.Context, id string) (unmet string, err error) {
	err = s.writeIfAny(ctx, func(v *table.View) ([]*swarmv1.Change, error) {
		rev, endpoint := endpointOf(v, id)
		if rev == nil || aligned(v, endpoint, rev.GetSpec()) && endpoint.GetUnmet() == "" {
			return nil, nil
		}
		return s.updateEndpoint(v, id, rev.GetSpec())
	})
	if errdefs.IsAlreadyExists(err) || errdefs.IsResourceExhausted(err) || errdefs.IsFailedPrecondition(err) {
		unmet = err.Error()
		return unmet, s.writeUnmet(ctx, id, unmet)
	}
	return "", err
}

// writeUnmet writes to the endpoint of a service why the service lacks ports or addresses.
func (s *Server) writeUnmet(ctx context.Context, id, why string) error {
	changed := false
	err := s.writeIfAny(ctx, func(v *table.View) ([]*swarmv1.Change, error) {
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
	return err
}

// writeIfAny commits the changes that change makes, and does nothing if it makes none. It returns
// no error if a row does not exist any more. It calls change once before it calls Writer.Write,
// because Write would wait for a PendingRemoval, and the endpoints of other services would wait
// too. writeIfAny returns the PendingRemoval at once, and AlignEndpoints tries again after the
// removal. Write waits only if the removal begins between the two calls.
func (s *Server) writeIfAny(ctx context.Context, change func(*table.View) ([]*swarmv1.Change, error)) error {
	changes, err := change(s.store.View())
	if err == nil && len(changes) > 0 {
		_, err = s.writer.Write(ctx, 0, change)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// endpointOf returns the current revision and the endpoint of a service. Both are nil if the
// service does not exist any more, or is being removed.
func endpointOf(v *table.View, id string) (*swarmv1.Revision, *swarmv1.Endpoint) {
	row, ok := v.Services.Get(id)
	if !ok || row.GetPendingDelete() {
		return nil, nil
	}
	rev, hasRevision := v.Revision(id, row.GetRevision())
	endpoint, hasEndpoint := v.Endpoints.Get(id)
	if !hasRevision || !hasEndpoint {
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
