package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/transport"
)

// Services is a grpc.ServiceRegistrar whose services come and go while the server runs: a node becomes a manager and
// ceases to be one without cutting the streams of those who read its logs. Every call is authorised here, in one place.
type Services struct {
	mu        sync.RWMutex // guards the three below; not held while a call runs
	methods   map[string]method
	authorise func(ctx context.Context, fullMethod string) error
	running   map[*call]struct{}
	// absent says why a method is not there. It is set before the first call.
	absent func(fullMethod string) error
}

// call is one that runs.
type call struct {
	who    transport.AuthInfo
	method string
}

// method is either unary or a stream.
type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	// owner allows a whole set to be withdrawn.
	owner string
}

func newServices() *Services {
	return &Services{methods: map[string]method{}, running: map[*call]struct{}{}, absent: notHere}
}

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

// Review judges all calls that run again, and hangs up on the peers of those that are not allowed
// any more.
func (s *Services) Review() {
	s.mu.RLock()
	judge := s.authorise
	running := slices.Collect(maps.Keys(s.running))
	s.mu.RUnlock()
	for _, c := range running {
		who := c.who
		who.Running = true
		if judge(transport.WithAuthInfo(context.Background(), who), c.method) != nil {
			who.HangUp()
		}
	}
}

// begin notes a call for Review; the returned function forgets it. A call through no listener of
// ours is not noted: it is refused.
func (s *Services) begin(ctx context.Context, name string) (end func()) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return func() {}
	}
	c := &call{who: who, method: name}
	s.mu.Lock()
	s.running[c] = struct{}{}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.running, c)
		s.mu.Unlock()
	}
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
	if !found && s.serves(name[:strings.LastIndexByte(name, '/')+1]) {
		return fmt.Errorf("%s: %w", name, errdefs.ErrNotImplemented)
	}
	if !found {
		return s.absent(name)
	}
	ctx := stream.Context()
	// Noted first: a Review at the same time then judges the call too, and no change falls between
	// the two.
	defer s.begin(ctx, name)()
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

// serves reports whether methods that begin so are served.
func (s *Services) serves(service string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name := range s.methods {
		if strings.HasPrefix(name, service) {
			return true
		}
	}
	return false
}

// everyNodes are the services of every member; the others of swarm.v1 are managers'.
var everyNodes = []string{"/swarm.v1.Daemon/", "/swarm.v1.Worker/", "/swarm.v1.Doctor/", "/swarm.v1.Disk/"}

func ofEveryNode(fullMethod string) bool {
	return slices.ContainsFunc(everyNodes, func(service string) bool { return strings.HasPrefix(fullMethod, service) })
}

// notHere explains a service that this node does not have now.
func notHere(fullMethod string) error {
	switch {
	case ofEveryNode(fullMethod):
		return errdefs.ErrUnavailable.WithMessage("this host is part of no cluster: run `swarm init` or `swarm join` first")
	case strings.HasPrefix(fullMethod, "/swarm.v1."):
		return errdefs.ErrUnavailable.WithMessage("this node is not a swarm manager: run the command on a manager, or name one with -H")
	default:
		return fmt.Errorf("%s: %w", fullMethod, errdefs.ErrNotImplemented)
	}
}
