package transport

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Config names the member.
type Config struct {
	NodeID    string
	ClusterID string // if it is "", the cluster ids of peers are not checked
	// Epoch returns the cluster's epoch, or 0 while it is unknown. It is called for every
	// connection, from several goroutines.
	Epoch func() uint64
}

// Deps are the live objects that a Transport uses.
type Deps struct {
	Log *slog.Logger
	// Listener accepts the connections of other members. If it is nil, no member can connect.
	Listener net.Listener
	// PeerOf returns the node id that the peer of an accepted connection has authenticated as. If
	// PeerOf is nil, the id in the hello is trusted.
	PeerOf func(net.Conn) string
	// Dial connects to the Listener of another member.
	Dial func(ctx context.Context, nodeID string) (net.Conn, error)
}

// Transport is a raft.Transport. Outgoing RPCs use a raft.NetworkTransport, and incoming ones use
// inbound.
//
// Raft sends entries through pipelines, without waiting for the answers to earlier entries. This
// Transport adds a buffer for the answers to each pipeline (see pipeline), so that a send never
// waits for a reader of answers. Without the buffer, a send blocks until the previous answer is
// read. If a follower refuses entries or knows a newer term, Raft stops reading answers, and a
// pending send blocks for ever, because only the sending goroutine closes the pipeline. The
// follower then gets nothing but heartbeats until the leader changes, and the leader cannot be shut
// down (hashicorp/raft#612).
type Transport struct {
	*raft.NetworkTransport
	in    *inbound
	layer *streamLayer

	mu      sync.Mutex             // guards refused
	refused map[raft.ServerID]bool // members that did not store the last entries; see Stores
}

// maxIdleConns is how many idle connections to each member stay open. Replication and heartbeats
// use one connection each; a pipeline has its own. Each connection costs 256 KiB of buffers on both
// members.
const maxIdleConns = 2

// New returns a Transport and starts to accept connections. raftLog receives the messages of
// hashicorp/raft. Close the Transport at the end.
func New(cfg Config, deps Deps, raftLog hclog.Logger) *Transport {
	layer := newStreamLayer(cfg, deps)
	conf := raft.NetworkTransportConfig{
		MaxPool: maxIdleConns, Timeout: 5 * time.Second, Logger: raftLog, MsgpackUseNewTimeFormat: true,
	}
	out := conf
	out.Stream = layer
	return &Transport{NetworkTransport: raft.NewNetworkTransportWithConfig(&out), in: newInbound(layer, conf), layer: layer, refused: make(map[raft.ServerID]bool)}
}

// CloseConnections closes the listener and every connection, and cancels all dials. So it ends the
// waits of Raft for a peer that does not answer. Call Close afterwards.
func (t *Transport) CloseConnections() error { return t.layer.Close() }

// SendToSelf makes Raft handle an RPC from this member to itself, without a connection. It returns
// the error of the answer, or net.ErrClosed after Close.
func (t *Transport) SendToSelf(command any) error { return t.in.sendToSelf(command) }

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.in.rpcs }

// SetHeartbeatHandler implements raft.Transport.
func (t *Transport) SetHeartbeatHandler(handle func(raft.RPC)) { t.in.heartbeat.Store(&handle) }

// Close implements raft.WithClose. It closes the stream layer, and with it all connections.
func (t *Transport) Close() error {
	err := t.NetworkTransport.Close()
	t.in.close()
	return err
}

// AppendEntries implements raft.Transport.
func (t *Transport) AppendEntries(id raft.ServerID, address raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, address, req, resp)
	if len(req.Entries) > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.refused[id] = err != nil || !resp.Success
	}
	return err
}

// Stores reports whether a member stored the last entries that were sent to it outside a pipeline.
// A member whose disk fails answers heartbeats, but does not store entries. Entries in a
// pipeline are not recorded, but they need not be: Raft opens a pipeline to a member only after the
// member has stored entries, and closes it when the member refuses some. Raft then sends these
// entries again outside a pipeline, and the refusal is recorded.
func (t *Transport) Stores(id raft.ServerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.refused[id]
}

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(id raft.ServerID, address raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, address)
	if err != nil {
		return nil, err
	}
	return newPipeline(p), nil
}
