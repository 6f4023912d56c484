package control

import (
	"context"
	"maps"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// AlignEndpoints is a duty of the leader: a service that the planner has rolled back publishes what its revision now says,
// and has addresses on the networks of that.
// The API does the same in one group with the revision; the planner does not, because a port may have gone to another
// service since, and a rollback must not wait for it.
func (s *Server) AlignEndpoints(ctx context.Context) error {
	view, w := s.store.Watch(raftstore.TableService)
	defer w.Close()
	for svc := range view.Services.All() {
		if err := s.align(ctx, svc); err != nil {
			return err
		}
	}
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, c := range batch.Changes {
			if svc, _ := c.New.(*swarmv1.Service); svc != nil {
				if err := s.align(ctx, svc); err != nil {
					return err
				}
			}
		}
	}
}

func (s *Server) align(ctx context.Context, svc *swarmv1.Service) error {
	changes := func(v *raftstore.View) ([]*swarmv1.Change, error) {
		row, ok := v.Services.Get(svc.GetId())
		if !ok || row.GetPendingDelete() {
			return nil, nil
		}
		rev, ok := v.Revision(row.GetId(), row.GetRevision())
		endpoint, has := v.Endpoints.Get(row.GetId())
		if !ok || !has || aligned(v, endpoint, rev.GetSpec()) {
			return nil, nil
		}
		return s.reendpoint(v, row.GetId(), rev.GetSpec())
	}
	if c, err := changes(s.store.View()); err == nil && len(c) == 0 {
		return nil
	}
	_, err := s.write(ctx, 0, changes)
	switch {
	case errdefs.IsAlreadyExists(err), errdefs.IsResourceExhausted(err), errdefs.IsFailedPrecondition(err):
		s.log.Warn("a service that was rolled back cannot have its former ports and addresses", "service", svc.GetId(), "err", err)
	case err != nil && !errdefs.IsNotFound(err):
		return err
	}
	return nil
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
