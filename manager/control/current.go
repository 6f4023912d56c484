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

// Current returns a registrar that adds services to r. Their unary calls do not answer from an old
// replica.
//
// A read (Get..., List..., Survey...) first waits until this manager's view has everything that any
// manager had committed when the read arrived. If the leader does not answer within readWait, the
// read answers from the view as it is, and its header has stale.Notice with the text of notice. A
// caller that sends stale.Accept gets the view at once.
//
// A write compares with the leader before it reports that something does not exist, or exists
// already. Streams are not changed.
func Current(r grpc.ServiceRegistrar, store replica, notice func() string) grpc.ServiceRegistrar {
	return current{ServiceRegistrar: r, store: store, notice: notice}
}

// replica is what Current needs of a store.
type replica interface {
	View() *table.View
	Latest(ctx context.Context) (*table.View, error)
	LeaderlessSince() time.Time
}

type current struct {
	grpc.ServiceRegistrar
	store  replica
	notice func() string
}

// RegisterService wraps every unary method in read or retry, inside the interceptors of the server.
func (n current) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		answer := n.retry
		if isRead(m.MethodName) {
			answer = n.read
		}
		d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, outer grpc.UnaryServerInterceptor) (any, error) {
			return m.Handler(srv, ctx, dec, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				inner := func(ctx context.Context, req any) (any, error) { return answer(ctx, req, handle) }
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

// read answers from a view that is not older than the request.
func (n current) read(ctx context.Context, req any, handle grpc.UnaryHandler) (any, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(stale.Accept)) > 0 {
		return handle(ctx, req)
	}
	wait := readWait
	if alone := n.store.LeaderlessSince(); !alone.IsZero() && time.Since(alone) > readWait {
		wait = 0 // The running election has failed before.
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

// retry repeats a call that failed with NotFound or AlreadyExists once the replica has caught up
// with the leader, because the first answer may be stale.
func (n current) retry(ctx context.Context, req any, handle grpc.UnaryHandler) (any, error) {
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
