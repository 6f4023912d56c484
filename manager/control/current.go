package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"swarm/internal/stale"
	"swarm/manager/control/crud"
	"swarm/raftstore/table"
)

// readWait is how long a read waits for the leader before it answers from this manager's view.
const readWait = 3 * time.Second

// CurrentRegistrar returns a registrar that registers services with r, and wraps their unary calls,
// so that these do not answer from an old replica. It does not wrap streams.
//
// A read (Get..., List..., Survey...) first waits until this manager's view includes every change
// that was committed before the read arrived (see raftstore.Store.ReadIndex). It waits for at most
// readWait, and not at all if there has been no leader for longer than readWait. If the view may be
// older after that, the read answers from it as it is, and its header has stale.Notice with the
// text of notice. A read with the header stale.Accept does not wait.
//
// A write that fails because an object does not exist, or exists already, is repeated once if the
// leader has committed more than this manager's view had.
func CurrentRegistrar(r grpc.ServiceRegistrar, store replica, notice func() string) grpc.ServiceRegistrar {
	return currentRegistrar{ServiceRegistrar: r, store: store, notice: notice}
}

// replica is what CurrentRegistrar needs of a store.
type replica interface {
	View() *table.View
	Latest(ctx context.Context) (*table.View, error)
	LeaderlessSince() time.Time
}

type currentRegistrar struct {
	grpc.ServiceRegistrar
	store  replica
	notice func() string
}

// RegisterService wraps every unary method in serveRead or serveWrite, inside the interceptors of
// the server.
func (n currentRegistrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		serve := n.serveWrite
		if isRead(m.MethodName) {
			serve = n.serveRead
		}
		d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, dec, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				inner := func(ctx context.Context, req any) (any, error) { return serve(ctx, req, handle) }
				if outer == nil {
					return inner(ctx, req)
				}
				return outer(ctx, req, info, inner)
			})
		}
	}
	n.ServiceRegistrar.RegisterService(&d, impl)
}

func isRead(method string) bool {
	return strings.HasPrefix(method, "Get") || strings.HasPrefix(method, "List") || strings.HasPrefix(method, "Survey")
}

// serveRead calls handle once the view is not older than the request, or the wait for that is over.
func (n currentRegistrar) serveRead(ctx context.Context, req any, handle grpc.UnaryHandler) (any, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(stale.Accept)) > 0 {
		return handle(ctx, req)
	}
	wait := readWait
	if since := n.store.LeaderlessSince(); !since.IsZero() && time.Since(since) > readWait {
		wait = 0 // A leader that is missing for so long is not likely to come now.
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	_, err := n.store.Latest(bounded)
	cancel()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		_ = grpc.SetHeader(ctx, metadata.Pairs(stale.Notice, n.notice()))
	}
	return handle(ctx, req)
}

// serveWrite repeats a call that failed with NotFound or AlreadyExists once the replica has caught
// up with the leader, because the first answer may come from an old view.
func (n currentRegistrar) serveWrite(ctx context.Context, req any, handle grpc.UnaryHandler) (any, error) {
	before := n.store.View().Index()
	out, err := handle(ctx, req)
	if !errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err) {
		return out, err
	}
	wait, cancel := context.WithTimeout(ctx, crud.CatchUpTimeout)
	defer cancel()
	if view, late := n.store.Latest(wait); late != nil || view.Index() <= before {
		return out, err
	}
	return handle(ctx, req)
}
