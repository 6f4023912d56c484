package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// network is Raft's transport: a raft.NetworkTransport for what this member sends, and inbound for
// what others send.
//
// Its pipelines are such that a sender cannot be stuck in them. Raft's own hold no answer: whoever sends waits until the one before is read. When a follower refuses, or knows a newer
// term, raft's reader ends; a send that was under way then waits for ever, because only its own end closes the pipeline.
// The follower gets heartbeats and nothing else until the leader changes, and the leader can never be stopped
// (hashicorp/raft#612).
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

// pipeline takes every answer as soon as it comes, and holds it until it is read. There are few: raft stops sending soon
// after it stops reading.
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
