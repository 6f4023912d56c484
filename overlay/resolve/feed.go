//go:build linux

package resolve

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"swarm/internal/broadcast"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

// retryMin and retryMax limit the pause before the feed connects again.
const retryMin, retryMax = 20 * time.Millisecond, 250 * time.Millisecond

// FeedConfig configures a Feed.
type FeedConfig struct {
	// Socket is the path of the server's unix socket.
	Socket string
}

// Feed sends the daemon's state to a server. When it connects again, it sends the whole state
// first. The Set and Remove methods only record changes, and Run sends them. All methods are safe
// for concurrent use.
type Feed struct {
	socket string
	log    *slog.Logger

	mu         sync.Mutex // guards the fields below
	networks   map[string]*swarmv1.ResolverNetwork
	services   map[serviceKey]*swarmv1.ResolverService
	containers map[string]*swarmv1.ResolverContainer
	// unsent has the keys of objects that have changed since the last message.
	unsent changes
	// version is the number of the latest change. applied is the number of the latest change that
	// the server has applied.
	version, applied uint64
	// failed has the error for each container that the server cannot serve.
	failed map[string]string
	// changed is sent when one of the fields above changes.
	changed broadcast.Signal
}

type serviceKey struct{ network, service string }

type changes struct {
	networks   map[string]bool
	services   map[serviceKey]bool
	containers map[string]bool
}

func newChanges() changes {
	return changes{make(map[string]bool), make(map[serviceKey]bool), make(map[string]bool)}
}

// NewFeed returns a feed without objects. The caller must call Run.
func NewFeed(cfg FeedConfig, deps Deps) *Feed {
	return &Feed{
		socket: cfg.Socket, log: deps.Log,
		networks: make(map[string]*swarmv1.ResolverNetwork), services: make(map[serviceKey]*swarmv1.ResolverService),
		containers: make(map[string]*swarmv1.ResolverContainer), unsent: newChanges(),
		failed: make(map[string]string),
	}
}

// change records a change and wakes Run.
func (f *Feed) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	fn()
	f.changed.Broadcast()
}

// SetNetwork adds or replaces a network. The caller must not change an object after passing it to a
// Feed.
func (f *Feed) SetNetwork(n *swarmv1.ResolverNetwork) {
	f.change(func() { f.networks[n.Id], f.unsent.networks[n.Id] = n, true })
}

// RemoveNetwork removes a network with its services.
func (f *Feed) RemoveNetwork(id string) {
	f.change(func() {
		delete(f.networks, id)
		f.unsent.networks[id] = true
		for key := range f.services {
			if key.network == id {
				delete(f.services, key)
				f.unsent.services[key] = true
			}
		}
	})
}

// SetService replaces a service's names on a network. If s equals the last value, nothing is sent.
func (f *Feed) SetService(s *swarmv1.ResolverService) {
	key := serviceKey{s.NetworkId, s.ServiceId}
	f.mu.Lock()
	same := proto.Equal(f.services[key], s)
	f.mu.Unlock()
	if !same {
		f.change(func() { f.services[key], f.unsent.services[key] = s, true })
	}
}

// RemoveService removes a service's names from a network.
func (f *Feed) RemoveService(networkID, serviceID string) {
	key := serviceKey{networkID, serviceID}
	f.change(func() {
		delete(f.services, key)
		f.unsent.services[key] = true
	})
}

// Serve asks the server to answer a container's queries, and waits until it does. It returns
// ErrUnavailable if the server has not replied when ctx ends, and ErrInternal if the server cannot
// serve the container.
func (f *Feed) Serve(ctx context.Context, c *swarmv1.ResolverContainer) error {
	f.change(func() {
		f.containers[c.Id], f.unsent.containers[c.Id] = c, true
		delete(f.failed, c.Id)
	})
	if err := f.Applied(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if msg, ok := f.failed[c.Id]; ok {
		return fmt.Errorf("name server of container %s: %s: %w", c.Id, msg, errdefs.ErrInternal)
	}
	return nil
}

// SetContainer is Serve without waiting, for a container that the server probably serves already.
func (f *Feed) SetContainer(c *swarmv1.ResolverContainer) {
	f.change(func() { f.containers[c.Id], f.unsent.containers[c.Id] = c, true })
}

// RemoveContainer undoes Serve. It does not wait, so the container's namespace may live until the
// server has closed its sockets.
func (f *Feed) RemoveContainer(containerID string) {
	f.change(func() {
		delete(f.containers, containerID)
		delete(f.failed, containerID)
		f.unsent.containers[containerID] = true
	})
}

// Applied waits until the server has applied all changes that were recorded before the call. It
// returns ErrUnavailable if ctx ends first.
func (f *Feed) Applied(ctx context.Context) error {
	f.mu.Lock()
	version := f.version
	for f.applied < version {
		changed := f.changed.Changed()
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("containers' name server at %s did not acknowledge an update: %w: %w", f.socket, errdefs.ErrUnavailable, context.Cause(ctx))
		}
		f.mu.Lock()
	}
	f.mu.Unlock()
	return nil
}

// Run sends changes to the server until ctx ends. It connects again when the connection breaks.
func (f *Feed) Run(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+f.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxUpdate)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: retryMax},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return fmt.Errorf("containers' name server: %w", err)
	}
	defer conn.Close()
	wait := retryMin
	for {
		began := time.Now()
		err := f.runStream(ctx, swarmv1.NewResolverClient(conn))
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		f.log.WarnContext(ctx, "cannot reach the containers' name server: containers resolve the names of the last update", "socket", f.socket, "err", err, "retry", wait)
		if pause.For(ctx, wait) != nil {
			return nil
		}
		wait = min(2*wait, retryMax)
	}
}

// runStream sends all objects, and then changes, until the stream breaks.
func (f *Feed) runStream(ctx context.Context, client swarmv1.ResolverClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Feed(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() {
		defer cancel()
		received <- f.receiveAcks(stream)
	}()
	err = f.send(ctx, stream)
	cancel()
	if why := <-received; why != nil {
		return why
	}
	return err
}

func (f *Feed) send(ctx context.Context, stream swarmv1.Resolver_FeedClient) error {
	if err := stream.Send(f.fullUpdate()); err != nil {
		return err
	}
	for {
		u, changed := f.nextUpdate()
		if u == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := stream.Send(u); err != nil {
			return err
		}
	}
}

// fullUpdate returns an update with all objects.
func (f *Feed) fullUpdate() *swarmv1.ResolverUpdate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsent = newChanges()
	u := &swarmv1.ResolverUpdate{Version: f.version, Complete: true}
	u.Networks = slices.Collect(maps.Values(f.networks))
	u.Services = slices.Collect(maps.Values(f.services))
	u.Containers = slices.Collect(maps.Values(f.containers))
	return u
}

// nextUpdate returns an update with the unsent changes. If there are none, it returns nil and a
// channel that closes with the next change.
func (f *Feed) nextUpdate() (*swarmv1.ResolverUpdate, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.unsent
	if len(c.networks)+len(c.services)+len(c.containers) == 0 {
		return nil, f.changed.Changed()
	}
	f.unsent = newChanges()
	u := &swarmv1.ResolverUpdate{Version: f.version}
	for id := range c.networks {
		if n, ok := f.networks[id]; ok {
			u.Networks = append(u.Networks, n)
		} else {
			u.GoneNetworks = append(u.GoneNetworks, id)
		}
	}
	for key := range c.services {
		if s, ok := f.services[key]; ok {
			u.Services = append(u.Services, s)
		} else {
			u.GoneServices = append(u.GoneServices, &swarmv1.ResolverServiceKey{NetworkId: key.network, ServiceId: key.service})
		}
	}
	for id := range c.containers {
		if cn, ok := f.containers[id]; ok {
			u.Containers = append(u.Containers, cn)
		} else {
			u.GoneContainers = append(u.GoneContainers, id)
		}
	}
	return u, nil
}

// receiveAcks receives acknowledgements until the stream breaks.
func (f *Feed) receiveAcks(stream swarmv1.Resolver_FeedClient) error {
	for {
		ack, err := stream.Recv()
		if err != nil {
			return err
		}
		f.mu.Lock()
		for _, x := range ack.Failures {
			f.log.Warn("the containers' name server cannot serve a container: the container cannot resolve names", "container", x.ContainerId, "err", x.Message)
			if _, ok := f.containers[x.ContainerId]; ok {
				f.failed[x.ContainerId] = strings.TrimSpace(x.Message)
			}
		}
		f.applied = max(f.applied, ack.Version)
		f.changed.Broadcast()
		f.mu.Unlock()
	}
}
