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

// retryMin and retryMax bound the pause before the server is sought again.
const retryMin, retryMax = 20 * time.Millisecond, 250 * time.Millisecond

// FeedConfig of a feed.
type FeedConfig struct {
	// Socket is the server's.
	Socket string
}

// Feed tells a server what the daemon knows, all of it again whenever the server is a new one. Its methods may be called
// by several goroutines; they note what is to be said, and Run says it.
type Feed struct {
	socket string
	log    *slog.Logger

	mu         sync.Mutex // guards what follows
	networks   map[string]*swarmv1.ResolverNetwork
	services   map[serviceKey]*swarmv1.ResolverService
	containers map[string]*swarmv1.ResolverContainer
	// unsaid is what has changed since the last message.
	unsaid changes
	// version is of the latest change, applied of the latest that is in force; failed has what could not be.
	version, applied uint64
	failed           map[string]string
	// changed is sent at every change of the fields above.
	changed broadcast.Signal
}

type serviceKey struct{ network, service string }

type changes struct {
	networks   map[string]bool
	services   map[serviceKey]bool
	containers map[string]bool
}

func noChanges() changes {
	return changes{make(map[string]bool), make(map[serviceKey]bool), make(map[string]bool)}
}

// NewFeed returns a feed that has nothing to say.
func NewFeed(cfg FeedConfig, deps Deps) *Feed {
	return &Feed{
		socket: cfg.Socket, log: deps.Log,
		networks: make(map[string]*swarmv1.ResolverNetwork), services: make(map[serviceKey]*swarmv1.ResolverService),
		containers: make(map[string]*swarmv1.ResolverContainer), unsaid: noChanges(),
		failed: make(map[string]string),
	}
}

// change notes something and wakes whoever waits.
func (f *Feed) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	fn()
	f.wakeLocked()
}

func (f *Feed) wakeLocked() {
	f.changed.Broadcast()
}

// SetNetwork names a network. What is passed to a feed is not changed afterwards.
func (f *Feed) SetNetwork(n *swarmv1.ResolverNetwork) {
	f.change(func() { f.networks[n.Id], f.unsaid.networks[n.Id] = n, true })
}

// RemoveNetwork forgets a network with its services.
func (f *Feed) RemoveNetwork(id string) {
	f.change(func() {
		delete(f.networks, id)
		f.unsaid.networks[id] = true
		for key := range f.services {
			if key.network == id {
				delete(f.services, key)
				f.unsaid.services[key] = true
			}
		}
	})
}

// SetService replaces a service's names on a network. The same again is not said again.
func (f *Feed) SetService(s *swarmv1.ResolverService) {
	key := serviceKey{s.NetworkId, s.ServiceId}
	f.mu.Lock()
	same := proto.Equal(f.services[key], s)
	f.mu.Unlock()
	if !same {
		f.change(func() { f.services[key], f.unsaid.services[key] = s, true })
	}
}

// RemoveService forgets a service's names on a network.
func (f *Feed) RemoveService(networkID, serviceID string) {
	key := serviceKey{networkID, serviceID}
	f.change(func() {
		delete(f.services, key)
		f.unsaid.services[key] = true
	})
}

// Serve has a container's questions answered, and returns when they are, or why they are not.
func (f *Feed) Serve(ctx context.Context, c *swarmv1.ResolverContainer) error {
	f.change(func() {
		f.containers[c.Id], f.unsaid.containers[c.Id] = c, true
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

// SetContainer is Serve without waiting: for a container that is served already, in all likelihood.
func (f *Feed) SetContainer(c *swarmv1.ResolverContainer) {
	f.change(func() { f.containers[c.Id], f.unsaid.containers[c.Id] = c, true })
}

// Dismiss ends what Serve began. It does not wait: the container's namespace lives until the server has heard.
func (f *Feed) Dismiss(containerID string) {
	f.change(func() {
		delete(f.containers, containerID)
		delete(f.failed, containerID)
		f.unsaid.containers[containerID] = true
	})
}

// Applied returns when everything said so far is in force.
func (f *Feed) Applied(ctx context.Context) error {
	f.mu.Lock()
	version := f.version
	for f.applied < version {
		changed := f.changed.Changed()
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("name responder at %s has not answered: %w: %w", f.socket, errdefs.ErrUnavailable, context.Cause(ctx))
		}
		f.mu.Lock()
	}
	f.mu.Unlock()
	return nil
}

// Run keeps the server told until ctx ends, and connects again when it went away.
func (f *Feed) Run(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+f.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxUpdate)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: retryMax},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return fmt.Errorf("name responder: %w", err)
	}
	defer conn.Close()
	wait := retryMin
	for {
		began := time.Now()
		err := f.speak(ctx, swarmv1.NewResolverClient(conn))
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > retryMax {
			wait = retryMin
		}
		f.log.WarnContext(ctx, "name responder does not listen", "socket", f.socket, "err", err, "retry", wait)
		if pause.For(ctx, wait) != nil {
			return nil
		}
		wait = min(2*wait, retryMax)
	}
}

// speak says everything, then what changes, until the stream breaks.
func (f *Feed) speak(ctx context.Context, client swarmv1.ResolverClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Feed(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	heard := make(chan error, 1)
	go func() {
		defer cancel()
		heard <- f.hear(stream)
	}()
	err = f.say(ctx, stream)
	cancel()
	if why := <-heard; why != nil {
		return why
	}
	return err
}

func (f *Feed) say(ctx context.Context, stream swarmv1.Resolver_FeedClient) error {
	if err := stream.Send(f.all()); err != nil {
		return err
	}
	for {
		u, changed := f.next()
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

// all is a message that says everything.
func (f *Feed) all() *swarmv1.ResolverUpdate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsaid = noChanges()
	u := &swarmv1.ResolverUpdate{Version: f.version, Complete: true}
	u.Networks = slices.Collect(maps.Values(f.networks))
	u.Services = slices.Collect(maps.Values(f.services))
	u.Containers = slices.Collect(maps.Values(f.containers))
	return u
}

// next is a message that says what has changed, nil when nothing has.
func (f *Feed) next() (*swarmv1.ResolverUpdate, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.unsaid
	if len(c.networks)+len(c.services)+len(c.containers) == 0 {
		return nil, f.changed.Changed()
	}
	f.unsaid = noChanges()
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

// hear takes acknowledgements.
func (f *Feed) hear(stream swarmv1.Resolver_FeedClient) error {
	for {
		ack, err := stream.Recv()
		if err != nil {
			return err
		}
		f.mu.Lock()
		for _, x := range ack.Failures {
			f.log.Warn("name server of a container", "container", x.ContainerId, "err", x.Message)
			if _, ok := f.containers[x.ContainerId]; ok {
				f.failed[x.ContainerId] = strings.TrimSpace(x.Message)
			}
		}
		f.applied = max(f.applied, ack.Version)
		f.wakeLocked()
		f.mu.Unlock()
	}
}
