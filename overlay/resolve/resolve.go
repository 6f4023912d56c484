//go:build linux

// Package resolve answers what containers ask their name server, 127.0.0.11.
//
// A Server owns two sockets (UDP, TCP) in the network namespace of each container that it is
// told of, and there the nftables table `swarm-dns` that leads port 53 to them; a cache of
// what others answered; and the unix socket at which it is told. A Feed tells it: networks,
// services and containers, all at first and then what changes. The server runs in `swarm
// runtime`, so that names resolve while the daemon is away: it keeps what it was told last. It
// refuses to know where tasks are and whether they live: that comes from the feed. A
// container hears nothing of networks that it is not on.
//
// Callers: cmd, the overlay's controller. Goroutines: two for each container, one for each
// question that is passed on, all ended by Run; Feed.Run has two.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
)

// maxUpdate bounds a message of the feed, in bytes: all of a large cluster's services.
const maxUpdate = 256 << 20

// Config of a server.
type Config struct {
	// Socket is where the feed comes in.
	Socket string
	// ResolvConf names the host's own name servers; default /etc/resolv.conf.
	ResolvConf string
}

// Deps of a server.
type Deps struct {
	Log *slog.Logger
}

// Server answers containers.
type Server struct {
	swarmv1.UnimplementedResolverServer
	cfg      Config
	log      *slog.Logger
	upstream *upstream

	// streams and passed are what containers share of their slots.
	streams, passed chan struct{}

	queries, answered, failed atomic.Uint64
	version                   atomic.Uint64

	// feeding is held by the stream that changes things; a newer stream waits for its end.
	feeding sync.Mutex

	// mu guards what follows, and is held for the time of a look-up.
	mu    sync.RWMutex
	names names
	// containers change only under feeding besides: who holds that reads them without mu.
	containers map[string]*container
}

// New returns a server that answers nobody yet.
func New(cfg Config, deps Deps) *Server {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	return &Server{
		cfg: cfg, log: deps.Log, upstream: newUpstream(cfg.ResolvConf),
		containers: make(map[string]*container), names: make(names),
		streams: make(chan struct{}, sharedStreams), passed: make(chan struct{}, sharedPassed),
	}
}

// Run takes feeds and answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("name responder: %w", err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxUpdate))
	swarmv1.RegisterResolverServer(g, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		g.Stop()
		close(stopped)
	})
	err = g.Serve(l)
	if !stop() {
		<-stopped
	}
	s.feeding.Lock()
	defer s.feeding.Unlock()
	for id := range s.containers {
		s.dismiss(id)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("name responder: %w", err)
}

// listen takes the place of a socket that an earlier process left: who calls holds the
// runtime's lock, so nobody serves there.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// By the time we close it, the path may be another's.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Feed takes a daemon's updates. What they said stays in force when the stream ends.
func (s *Server) Feed(stream grpc.BidiStreamingServer[swarmv1.ResolverUpdate, swarmv1.ResolverAck]) error {
	s.feeding.Lock()
	defer s.feeding.Unlock()
	for {
		u, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(s.apply(stream.Context(), u)); err != nil {
			return err
		}
	}
}

// apply brings names, then containers in line with an update.
func (s *Server) apply(ctx context.Context, u *swarmv1.ResolverUpdate) *swarmv1.ResolverAck {
	ack := &swarmv1.ResolverAck{Version: u.Version}
	services := s.parse(u)
	if u.Complete {
		// Questions are answered from the old until all of the new is there.
		fresh := make(names)
		s.applyNames(fresh, u, services)
		s.mu.Lock()
		s.names = fresh
		s.mu.Unlock()
	} else {
		s.mu.Lock()
		s.applyNames(s.names, u, services)
		s.mu.Unlock()
	}

	wanted := make(map[string]bool)
	for _, c := range u.Containers {
		wanted[c.Id] = true
		if err := s.serve(ctx, c); err != nil {
			s.log.ErrorContext(ctx, "name server of a container", "container", c.Id, "err", err)
			ack.Failures = append(ack.Failures, &swarmv1.ResolverFailure{ContainerId: c.Id, Message: err.Error()})
		}
	}
	for _, id := range u.GoneContainers {
		s.dismiss(id)
	}
	if u.Complete {
		for id := range s.containers {
			if !wanted[id] {
				s.dismiss(id)
			}
		}
	}
	s.version.Store(u.Version)
	return ack
}

// parse leaves out what is malformed: one bad row must not silence all.
func (s *Server) parse(u *swarmv1.ResolverUpdate) []*service {
	out := make([]*service, len(u.Services))
	for i, in := range u.Services {
		var err error
		if out[i], err = parseService(in); err != nil {
			s.log.Error("service that names cannot be made of", "service", in.ServiceId, "err", err)
		}
	}
	return out
}

func (s *Server) applyNames(to names, u *swarmv1.ResolverUpdate, services []*service) {
	zoneOf := func(id string) *zone {
		z := to[id]
		if z == nil {
			z = newZone()
			to[id] = z
		}
		return z
	}
	for _, n := range u.Networks {
		if err := zoneOf(n.Id).describe(n); err != nil {
			s.log.Error("network that names cannot be made of", "network", n.Id, "err", err)
		}
	}
	for i, in := range u.Services {
		if services[i] != nil {
			zoneOf(in.NetworkId).put(in.ServiceId, services[i])
		}
	}
	for _, key := range u.GoneServices {
		if z := to[key.NetworkId]; z != nil {
			z.put(key.ServiceId, nil)
		}
	}
	for _, id := range u.GoneNetworks {
		delete(to, id)
	}
}

// serve opens a container's sockets, or changes what it may know when they are open.
func (s *Server) serve(ctx context.Context, cfg *swarmv1.ResolverContainer) error {
	if c := s.containers[cfg.Id]; c != nil {
		if c.in(cfg.Netns) {
			c.cfg.Store(newAsker(cfg, c.cfg.Load()))
			return nil
		}
		s.dismiss(cfg.Id)
	}
	c, err := openContainer(ctx, s, cfg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[cfg.Id] = c
	return nil
}

func (s *Server) dismiss(id string) {
	if c := s.containers[id]; c != nil {
		c.close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.containers, id)
	}
}

// Stats counts since the start.
func (s *Server) Stats(context.Context, *swarmv1.ResolverStatsRequest) (*swarmv1.ResolverStats, error) {
	out := &swarmv1.ResolverStats{
		Queries: s.queries.Load(), Local: s.answered.Load(), Failed: s.failed.Load(), Version: s.version.Load(),
		Cached: s.upstream.hits.Load(), Forwarded: s.upstream.misses.Load(),
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out.Containers = uint64(len(s.containers))
	for _, z := range s.names {
		out.Services += uint64(len(z.services))
	}
	for _, c := range s.containers {
		out.Asked = append(out.Asked, c.cfg.Load().asked())
	}
	return out, nil
}
