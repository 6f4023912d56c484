//go:build linux

// Package resolve is the DNS server of containers, at 127.0.0.11 as in Docker.
//
// For each container that the daemon names, a Server owns two sockets (UDP and TCP) and the
// nftables table `swarm-dns`, both in the container's network namespace. The table redirects port
// 53 to the sockets. The server also owns a cache of answers from other name servers, and a unix
// socket on which it receives updates. A Feed is the client of that socket: it sends all networks,
// services and containers first, and then each change.
//
// The server runs in `swarm runtime` and stores the state of the last update, so that names resolve
// while the daemon is stopped. The feed tells the server where tasks are and whether they run; the
// server does not check it. The server never answers a container from a network that the container
// is not on.
//
// Callers: adapter/dataplane runs the server and constructs the feed; overlay/plane calls the feed.
// Goroutines: two for each container, one for each TCP connection and one for each UDP query that
// is forwarded. Run ends all of them. Feed.Run has two.
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

// maxUpdate is the maximum size of one update in bytes. All services of a large cluster fit.
const maxUpdate = 256 << 20

// Config configures a Server.
type Config struct {
	// Socket is the path of the unix socket on which the server receives updates.
	Socket string
	// ResolvConf is the path of the file that lists the host's own name servers. The default is
	// /etc/resolv.conf.
	ResolvConf string
}

// Deps are the live objects that a Server or a Feed uses.
type Deps struct {
	Log *slog.Logger
}

// Server answers the DNS queries of containers.
type Server struct {
	swarmv1.UnimplementedResolverServer
	cfg      Config
	log      *slog.Logger
	upstream *upstream

	// streams and forwards count the connections and the forwarded queries of all containers. They
	// do not count the part that is reserved for each container.
	streams, forwards chan struct{}

	queries, answered, failed atomic.Uint64
	version                   atomic.Uint64

	// applyMu is held by the stream whose updates are applied. A newer stream waits until that
	// stream ends.
	applyMu sync.Mutex

	// mu guards the fields below. It is held only during a look-up or an update.
	mu    sync.RWMutex
	zones zones
	// containers has two locks: code that writes it holds both applyMu and mu, and code that reads
	// it holds one of them.
	containers map[string]*container
}

// New returns a server that serves no container yet. The caller must call Run.
func New(cfg Config, deps Deps) *Server {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	return &Server{
		cfg: cfg, log: deps.Log, upstream: newUpstream(cfg.ResolvConf),
		containers: make(map[string]*container), zones: make(zones),
		streams: make(chan struct{}, sharedStreams), forwards: make(chan struct{}, sharedForwards),
	}
}

// Run receives updates and answers queries until ctx ends, and then returns nil. It returns an
// error if it cannot listen on Config.Socket. The caller calls it once.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("containers' name server: %w", err)
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
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	for id := range s.containers {
		s.stopServing(id)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("containers' name server: %w", err)
}

// listen replaces a socket that an earlier process left. The caller holds the runtime's lock, so no
// other process serves there.
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
	// Do not remove the path when this process closes the socket, because the path may already
	// belong to the next process.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Feed implements swarmv1.ResolverServer: it applies the updates of one daemon and acknowledges
// each. When the stream ends, the server keeps the state of the last update.
func (s *Server) Feed(stream grpc.BidiStreamingServer[swarmv1.ResolverUpdate, swarmv1.ResolverAck]) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
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

// apply applies an update: first names, then containers.
func (s *Server) apply(ctx context.Context, u *swarmv1.ResolverUpdate) *swarmv1.ResolverAck {
	ack := &swarmv1.ResolverAck{Version: u.Version}
	services := s.parse(u)
	if u.Complete {
		// Queries are answered from the old zones until all new zones are complete.
		fresh := make(zones)
		s.applyZones(fresh, u, services)
		s.mu.Lock()
		s.zones = fresh
		s.mu.Unlock()
	} else {
		s.mu.Lock()
		s.applyZones(s.zones, u, services)
		s.mu.Unlock()
	}

	wanted := make(map[string]bool)
	for _, c := range u.Containers {
		wanted[c.Id] = true
		if err := s.serve(ctx, c); err != nil {
			s.log.ErrorContext(ctx, "cannot serve DNS to a container: the container cannot resolve names", "container", c.Id, "err", err)
			ack.Failures = append(ack.Failures, &swarmv1.ResolverFailure{ContainerId: c.Id, Message: err.Error()})
		}
	}
	for _, id := range u.GoneContainers {
		s.stopServing(id)
	}
	if u.Complete {
		for id := range s.containers {
			if !wanted[id] {
				s.stopServing(id)
			}
		}
	}
	s.version.Store(u.Version)
	return ack
}

// parse returns the services of the update. The result is nil for a malformed service, so that one
// bad entry does not stop the others.
func (s *Server) parse(u *swarmv1.ResolverUpdate) []*service {
	out := make([]*service, len(u.Services))
	for i, in := range u.Services {
		var err error
		if out[i], err = parseService(in); err != nil {
			s.log.Error("malformed service in an update: the service has no DNS names", "service", in.ServiceId, "err", err)
		}
	}
	return out
}

func (s *Server) applyZones(to zones, u *swarmv1.ResolverUpdate, services []*service) {
	zoneOf := func(id string) *zone {
		z := to[id]
		if z == nil {
			z = newZone()
			to[id] = z
		}
		return z
	}
	for _, n := range u.Networks {
		if err := zoneOf(n.Id).setNetwork(n); err != nil {
			s.log.Error("malformed network in an update: some of its subnets have no reverse lookup", "network", n.Id, "err", err)
		}
	}
	for i, in := range u.Services {
		if services[i] != nil {
			zoneOf(in.NetworkId).setService(in.ServiceId, services[i])
		}
	}
	for _, key := range u.GoneServices {
		if z := to[key.NetworkId]; z != nil {
			z.setService(key.ServiceId, nil)
		}
	}
	for _, id := range u.GoneNetworks {
		delete(to, id)
	}
}

// serve opens the container's sockets. If they are open already, it replaces the container's
// configuration.
func (s *Server) serve(ctx context.Context, cfg *swarmv1.ResolverContainer) error {
	if c := s.containers[cfg.Id]; c != nil {
		if c.usesNamespace(cfg.Netns) {
			c.cfg.Store(newContainerConfig(cfg, c.cfg.Load()))
			return nil
		}
		s.stopServing(cfg.Id)
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

func (s *Server) stopServing(id string) {
	if c := s.containers[id]; c != nil {
		c.close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.containers, id)
	}
}

// Stats implements swarmv1.ResolverServer. The counts begin when the server starts.
func (s *Server) Stats(context.Context, *swarmv1.ResolverStatsRequest) (*swarmv1.ResolverStats, error) {
	out := &swarmv1.ResolverStats{
		Queries: s.queries.Load(), Local: s.answered.Load(), Failed: s.failed.Load(), Version: s.version.Load(),
		Cached: s.upstream.hits.Load(), Forwarded: s.upstream.misses.Load(),
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out.Containers = uint64(len(s.containers))
	for _, z := range s.zones {
		out.Services += uint64(len(z.services))
	}
	for _, c := range s.containers {
		out.Asked = append(out.Asked, c.cfg.Load().stats())
	}
	return out, nil
}
