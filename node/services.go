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

// Services has the gRPC services of a node. They can be added and removed while the server runs, so
// a node can become a manager, or stop being one, without interrupting streams such as logs.
// Services authorises every call.
type Services struct {
	mu        sync.RWMutex // guards the three fields below; not held while a call runs
	methods   map[string]method
	authorise func(ctx context.Context, fullMethod string) error
	running   map[*call]struct{}
	// unserved returns the error for a method that is not registered. It is set before the first
	// call.
	unserved func(fullMethod string) error
}

// call is a call in progress.
type call struct {
	who    transport.AuthInfo
	method string
}

// method has either unary or stream.
type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	// owner identifies the services that Unregister removes together.
	owner string
}

func newServices() *Services {
	return &Services{methods: map[string]method{}, running: map[*call]struct{}{}, unserved: notServedError}
}

// ServerOption returns the option that makes a gRPC server answer from s.
func (s *Services) ServerOption() grpc.ServerOption { return grpc.UnknownServiceHandler(s.handle) }

// registrar registers services for one owner.
type registrar struct {
	s     *Services
	owner string
}

// For returns a registrar for the owner. Unregister removes the services that were registered with
// it.
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

// Unregister removes the services of an owner. Calls in progress continue.
func (s *Services) Unregister(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range s.methods {
		if m.owner == owner {
			delete(s.methods, name)
		}
	}
}

// SetAuthorise sets the function that authorises calls. It returns an error for a call that is not
// allowed.
func (s *Services) SetAuthorise(authorise func(ctx context.Context, fullMethod string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorise = authorise
}

// Review authorises all calls in progress again. It closes the connection of a peer whose call is
// no longer allowed.
func (s *Services) Review() {
	s.mu.RLock()
	judge := s.authorise
	running := slices.Collect(maps.Keys(s.running))
	s.mu.RUnlock()
	for _, c := range running {
		who := c.who
		who.Established = true
		if judge(transport.WithAuthInfo(context.Background(), who), c.method) != nil {
			who.CloseConn()
		}
	}
}

// begin records a call for Review, and returns a function that removes the record. It does not
// record a call that did not come through a listener of package transport, because such a call is
// refused.
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
		return s.unserved(name)
	}
	ctx := stream.Context()
	// Record the call before authorising it, so that a Review between the two steps sees the call.
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

// serves reports whether a registered method has this prefix.
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

// nodeServices are the services that every member serves. Only managers serve the others of
// swarm.v1.
var nodeServices = []string{"/swarm.v1.Daemon/", "/swarm.v1.Worker/", "/swarm.v1.Doctor/", "/swarm.v1.Disk/", "/swarm.v1.NodeVolumes/", "/swarm.v1.NodeStats/"}

func isNodeService(fullMethod string) bool {
	return slices.ContainsFunc(nodeServices, func(service string) bool { return strings.HasPrefix(fullMethod, service) })
}

// notServedError returns the error for a service that this node does not serve now.
func notServedError(fullMethod string) error {
	switch {
	case isNodeService(fullMethod):
		return errdefs.ErrUnavailable.WithMessage("this host is part of no cluster: run `swarm init` or `swarm join` first")
	case strings.HasPrefix(fullMethod, "/swarm.v1."):
		return errdefs.ErrUnavailable.WithMessage("this node is not a swarm manager: run the command on a manager, or name one with -H")
	default:
		return fmt.Errorf("%s: %w", fullMethod, errdefs.ErrNotImplemented)
	}
}
