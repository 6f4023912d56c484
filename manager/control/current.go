package control

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/raftstore"
)

// Current registers services at r whose unary calls answer from this manager's replica, as ever, but do not say that
// something is not there, or is there already, before the replica has caught up with the leader: after a restart, or
// right after a write through another manager, it may not have heard yet.
func Current(r grpc.ServiceRegistrar, store replica) grpc.ServiceRegistrar {
	return current{ServiceRegistrar: r, store: store}
}

// replica is what Current needs of a store.
type replica interface {
	View() *raftstore.View
	Latest(ctx context.Context) (*raftstore.View, error)
}

type current struct {
	grpc.ServiceRegistrar
	store replica
}

// RegisterService puts ask around every unary method, within the interceptors of the server.
func (n current) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, dec, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				ask := func(ctx context.Context, req any) (any, error) { return n.ask(ctx, req, handle) }
				if outer == nil {
					return ask(ctx, req)
				}
				return outer(ctx, req, info, ask)
			})
		}
	}
	n.ServiceRegistrar.RegisterService(&d, impl)
}

// ask asks once more when the answer may have been of yesterday. Without a leader it was the best there is.
func (n current) ask(ctx context.Context, req any, handle grpc.UnaryHandler) (any, error) {
	before := n.store.View().Index()
	out, err := handle(ctx, req)
	if !errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err) {
		return out, err
	}
	wait, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if view, late := n.store.Latest(wait); late != nil || view.Index() <= before {
		return out, err
	}
	return handle(ctx, req)
}
