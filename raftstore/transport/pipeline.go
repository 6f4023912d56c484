package transport

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline reads every answer immediately and buffers it until Raft reads it. See Transport for the
// reason. The buffer stays small, because Raft stops sending soon after it stops reading.
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
