// Package imagepeer exchanges images between the nodes of a cluster. Peers tells the image store
// from which nodes it can fetch an image and opens the connections; Serve serves this node's images
// to the others.
//
// The package decides which nodes are asked for an image: the nodes that hold the image according
// to a manager, or all nodes that are alive if no manager knows one. It does not know what an image
// is: it passes on HTTP requests whose host is a node ID. While this host is in no cluster, Peers
// returns ErrUnavailable.
//
// Only cmd/swarm imports this package. Goroutines: those of the HTTP server, while Serve runs.
package imagepeer

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/transport"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// holdersTimeout bounds how long one manager may take to name the holders of an image.
	holdersTimeout = 2 * time.Second
	// headerTimeout, idleTimeout and maxHeader bound what a connection of another node costs.
	headerTimeout = 10 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10 // bytes
)

// Cluster has the functions that reach the nodes of a cluster.
type Cluster struct {
	// Transport sends requests whose host is a node ID.
	Transport http.RoundTripper
	// Alive returns the IDs of the other nodes that are alive.
	Alive func() []string
	// Managers returns the managers that can be asked for the holders of an image.
	Managers func() []node.Peer
	// Dial returns a connection to a node. The caller must not close the connection.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	Log  *slog.Logger
}

// Peers are the nodes from which images can be fetched: the nodes of the cluster of which this host
// is a member now. The zero value has no nodes. Several goroutines may call its methods.
type Peers struct{ current atomic.Pointer[Cluster] }

// Join sets the cluster whose nodes are the peers, until the caller calls leave.
func (p *Peers) Join(c Cluster) (leave func()) {
	p.current.Store(&c)
	return func() { p.current.Store(nil) }
}

// RoundTrip implements http.RoundTripper for URLs whose host is a node ID.
func (p *Peers) RoundTrip(r *http.Request) (*http.Response, error) {
	cluster := p.current.Load()
	if cluster == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this host is part of no cluster")
	}
	return cluster.Transport.RoundTrip(r)
}

// Holders returns the IDs of the nodes to ask for the image with a digest. It asks the managers in
// turn until one answers, and returns the nodes that hold the image according to this manager. If
// there are none, it returns all nodes that are alive.
func (p *Peers) Holders(ctx context.Context, digest string) []string {
	cluster := p.current.Load()
	if cluster == nil {
		return nil
	}
	for _, m := range cluster.Managers() {
		known, err := cluster.holders(ctx, m.NodeID, digest)
		if err != nil {
			cluster.Log.Debug("cannot ask a manager which nodes hold an image: the next manager is asked", "node", m.NodeID, "image", digest, "err", err)
			continue
		}
		if len(known) > 0 {
			return known
		}
		break
	}
	return cluster.Alive()
}

// holders asks one manager which nodes hold an image.
func (c *Cluster) holders(ctx context.Context, managerID, digest string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, holdersTimeout)
	defer cancel()
	conn, err := c.Dial(managerID)
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

// Serve serves this node's images to the other nodes until ctx ends, and closes ln. withCaller adds
// the ID of the calling node, which its certificate proves, to the context of a connection.
func Serve(ctx context.Context, ln net.Listener, images http.Handler, withCaller func(ctx context.Context, nodeID string) context.Context, log *slog.Logger) error {
	server := &http.Server{
		Handler: images,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			info, _ := transport.PeerOf(c)
			return withCaller(ctx, info.NodeID())
		},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}
