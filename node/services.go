package node

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// Services is a grpc.ServiceRegistrar whose services come and go while the server runs: a node becomes a manager and
// ceases to be one without cutting the streams of those who read its logs. Every call is authorised here, in one place.
type Services struct {
	mu        sync.RWMutex // guards the two below; not held while a call runs
	methods   map[string]method
	authorise func(ctx context.Context, fullMethod string) error
}

// method is either unary or a stream.
type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	// owner allows a whole set to be withdrawn.
	owner string
}

func newServices() *Services { return &Services{methods: map[string]method{}} }

// ServerOption makes a server answer from s.
func (s *Services) ServerOption() grpc.ServerOption { return grpc.UnknownServiceHandler(s.handle) }

// registrar registers services for an owner.
type registrar struct {
	s     *Services
	owner string
}

// For returns a registrar; Withdraw takes back what was registered through it.
func (s *Services) For(owner string) grpc.ServiceRegistrar { return registrar{s, owner} }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for i := range desc.Methods {
		r.s.methods["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = method{impl: impl, unary: &desc.Methods[i], owner: r.owner}
	}
	for i := range desc.Streams {
		r.s.methods["/"+desc.ServiceName+"/"+desc.Streams[i].StreamName] = method{impl: impl, stream: &desc.Streams[i], owner: r.owner}
	}
}

// Withdraw removes an owner's services; calls under way go on.
func (s *Services) Withdraw(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range s.methods {
		if m.owner == owner {
			delete(s.methods, name)
		}
	}
}

// SetAuthorise replaces the judge of calls.
func (s *Services) SetAuthorise(judge func(ctx context.Context, fullMethod string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorise = judge
}

func (s *Services) handle(_ any, stream grpc.ServerStream) error {
	name, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return errdefs.ErrInternal.WithMessage("a call without a method")
	}
	s.mu.RLock()
	m, found := s.methods[name]
	judge := s.authorise
	s.mu.RUnlock()
	if !found {
		return notHere(name)
	}
	ctx := stream.Context()
	if err := judge(ctx, name); err != nil {
		return err
	}
	if m.stream != nil {
		return m.stream.Handler(m.impl, stream)
	}
	answer, err := m.unary.Handler(m.impl, ctx, stream.RecvMsg, nil)
	if err != nil {
		return err
	}
	return stream.SendMsg(answer)
}

// notHere explains a service that this node does not have now.
func notHere(fullMethod string) error {
	switch {
	case strings.HasPrefix(fullMethod, "/swarm.v1.Daemon/"), strings.HasPrefix(fullMethod, "/swarm.v1.Worker/"),
		strings.HasPrefix(fullMethod, "/swarm.v1.Doctor/"), strings.HasPrefix(fullMethod, "/swarm.v1.Disk/"):
		return errdefs.ErrUnavailable.WithMessage("this host is part of no cluster: run `swarm init` or `swarm join` first")
	case strings.HasPrefix(fullMethod, "/swarm.v1."):
		return errdefs.ErrUnavailable.WithMessage("this node is not a swarm manager: run the command on a manager, or name one with -H")
	default:
		return fmt.Errorf("%s: %w", fullMethod, errdefs.ErrNotImplemented)
	}
}
