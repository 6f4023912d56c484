package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// network is Raft's transport. Outgoing RPCs use a raft.NetworkTransport, and incoming ones use
// inbound.
//
// Its pipelines cannot block the sender. A pipeline of hashicorp/raft has no buffer for answers: a
// send blocks until the previous answer is read. If a follower refuses entries or knows a newer
// term, Raft stops reading answers, and a pending send blocks for ever, because only the sending
// goroutine closes the pipeline. Then the follower gets nothing but heartbeats until the leader
// changes, and the leader can never be shut down (hashicorp/raft#612).
type network struct {
	*raft.NetworkTransport
	in *inbound
}

func newNetwork(layer *streamLayer, conf raft.NetworkTransportConfig) network {
	out := conf
	out.Stream = layer
	return network{raft.NewNetworkTransportWithConfig(&out), newInbound(layer, conf)}
}

// Consumer implements raft.Transport.
func (n network) Consumer() <-chan raft.RPC { return n.in.rpcs }

// SetHeartbeatHandler implements raft.Transport.
func (n network) SetHeartbeatHandler(handle func(raft.RPC)) { n.in.heartbeat.Store(&handle) }

// Close implements raft.WithClose. It closes the stream layer, and with it all connections.
func (n network) Close() error {
	err := n.NetworkTransport.Close()
	n.in.close()
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (n network) AppendEntriesPipeline(id raft.ServerID, address raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := n.NetworkTransport.AppendEntriesPipeline(id, address)
	if err != nil {
		return nil, err
	}
	return newPipeline(p), nil
}

// pipeline reads every answer at once and buffers it until Raft reads it. The buffer stays small,
// because Raft stops sending soon after it stops reading.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closing func()
	closed  chan struct{}
	done    chan struct{}
}

func newPipeline(inner raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{}), done: make(chan struct{})}
	p.closing = sync.OnceFunc(func() { close(p.closed) })
	go p.buffer()
	return p
}

func (p *pipeline) buffer() {
	defer close(p.done)
	var buffered []raft.AppendFuture
	for {
		var first raft.AppendFuture
		var out chan<- raft.AppendFuture
		if len(buffered) > 0 {
			first, out = buffered[0], p.answers
		}
		select {
		case f := <-p.AppendPipeline.Consumer():
			buffered = append(buffered, f)
		case out <- first:
			buffered = buffered[1:]
		case <-p.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.closing()
	<-p.done
	return p.AppendPipeline.Close()
}
