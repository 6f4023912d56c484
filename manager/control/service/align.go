package service

import (
	"context"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// AlignEndpoints is a duty of the leader: a service that the planner has rolled back publishes what its revision now says,
// and has addresses on the networks of that.
// The API does the same in one group with the revision; the planner does not, because a port may have gone to another
// service since, and a rollback must not wait for it. Until the service has all, its endpoint says why not (unmet), and it
// is tried again whenever something is given back.
func (s *Server) AlignEndpoints(ctx context.Context) error {
	view, w := s.store.Watch(raftstore.TableService, raftstore.TableClaim)
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
			case c.Table == raftstore.TableService && c.New != nil:
				due[c.Key] = true
			case c.Table == raftstore.TableClaim && c.New == nil:
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

// align says whether the service's endpoint is what its revision asks for.
func (s *Server) align(ctx context.Context, id string) (met bool, err error) {
	err = s.alignTo(ctx, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		rev, endpoint := endpointOf(v, id)
		if rev == nil || aligned(v, endpoint, rev.GetSpec()) && endpoint.GetUnmet() == "" {
			return nil, nil
		}
		return s.reendpoint(v, id, rev.GetSpec())
	})
	if !errdefs.IsAlreadyExists(err) && !errdefs.IsResourceExhausted(err) && !errdefs.IsFailedPrecondition(err) {
		return err == nil, err
	}
	why, news := err.Error(), false
	err = s.alignTo(ctx, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		rev, endpoint := endpointOf(v, id)
		if rev == nil || endpoint.GetUnmet() == why || aligned(v, endpoint, rev.GetSpec()) {
			return nil, nil
		}
		row := endpoint.CloneVT()
		row.Unmet, news = why, true
		return []*swarmv1.Change{raftstore.Update(row)}, nil
	})
	if news {
		s.log.Warn("a service that was rolled back cannot have its former ports and addresses yet", "service", id, "err", why)
	}
	return false, err
}

// alignTo writes the changes if there are any. A service that is gone needs none.
func (s *Server) alignTo(ctx context.Context, changes func(*raftstore.View) ([]*swarmv1.Change, error)) error {
	if c, err := changes(s.store.View()); err == nil && len(c) == 0 {
		return nil
	}
	_, err := s.writer.Write(ctx, 0, changes)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// endpointOf returns the revision and the endpoint of a service; nil when there is nothing to align.
func endpointOf(v *raftstore.View, id string) (*swarmv1.Revision, *swarmv1.Endpoint) {
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

// aligned: the endpoint is what the spec asks for.
func aligned(v *raftstore.View, e *swarmv1.Endpoint, sp *swarmv1.ServiceSpec) bool {
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
