package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/transport"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
)

// holdersTimeout bounds how long one manager may take to say who holds an image.
const holdersTimeout = 2 * time.Second

// peers are the nodes that images can be fetched from: those of the cluster that this host is a member of now, if any.
type peers struct{ current atomic.Pointer[peerSource] }

type peerSource struct {
	transport http.RoundTripper
	// alive gives the ids of the other nodes that are alive, managers those that can be asked who holds what.
	alive    func() []string
	managers func() []node.Peer
	dial     *transport.Dialer
	log      *slog.Logger
}

// RoundTrip implements http.RoundTripper for URLs whose host is a node's id.
func (p *peers) RoundTrip(r *http.Request) (*http.Response, error) {
	source := p.current.Load()
	if source == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this host is part of no cluster")
	}
	return source.transport.RoundTrip(r)
}

// holders names the nodes to ask for an image: those that hold it as far as the managers know, else all that are alive.
func (p *peers) holders(ctx context.Context, digest string) []string {
	source := p.current.Load()
	if source == nil {
		return nil
	}
	for _, m := range source.managers() {
		known, err := source.ask(ctx, m.NodeID, digest)
		switch {
		case err != nil:
			source.log.Debug("ask who holds an image", "node", m.NodeID, "image", digest, "err", err)
		case len(known) > 0:
			return known
		default:
			return source.alive()
		}
	}
	return source.alive()
}

func (s *peerSource) ask(ctx context.Context, managerID, digest string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, holdersTimeout)
	defer cancel()
	conn, err := s.dial.DialGRPC(managerID)
	if err != nil {
		return nil, err
	}
	answer, err := swarmv1.NewDispatcherClient(conn).Holders(ctx, &swarmv1.HoldersRequest{Digest: digest})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, h := range bounds.Peers(answer.GetHolders()) {
		ids = append(ids, h.GetNodeId())
	}
	return ids, nil
}
