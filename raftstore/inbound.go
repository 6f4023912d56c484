package raftstore

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// inbound takes the connections of other members. A raft.RPC does not tell through which connection
// it came, so every connection has a raft.NetworkTransport of its own. What such a transport yields
// is passed on to Raft if the ids in it are those of the member at the other end; the first other
// id ends the connection.
type inbound struct {
	layer *streamLayer
	conf  raft.NetworkTransportConfig // of each transport; Stream is set for each
	rpcs  chan raft.RPC               // what Raft consumes

	heartbeat atomic.Pointer[func(raft.RPC)] // Raft's fast path; nil before Raft has set it

	done       chan struct{} // closed by close
	once       sync.Once
	goroutines sync.WaitGroup // the goroutines
}

func newInbound(layer *streamLayer, conf raft.NetworkTransportConfig) *inbound {
	in := &inbound{layer: layer, conf: conf, rpcs: make(chan raft.RPC), done: make(chan struct{})}
	if layer.deps.Listener != nil {
		in.goroutines.Go(in.accept)
	}
	return in
}

// close ends every connection and waits for the goroutines. The layer must have been closed before.
func (in *inbound) close() {
	in.once.Do(func() { close(in.done) })
	in.goroutines.Wait()
}

// accept runs until the listener is closed.
func (in *inbound) accept() {
	const longest = time.Second
	for wait := 5 * time.Millisecond; ; {
		c, err := in.layer.deps.Listener.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			in.goroutines.Go(func() { in.serve(c) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		in.layer.log.Warn("accept a Raft connection", "err", err, "again_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, longest)
		case <-in.done:
			timer.Stop()
			return
		}
	}
}

// serve passes on what comes through one connection until it ends.
func (in *inbound) serve(accepted net.Conn) {
	// The hello is read from what was accepted: Deps.PeerOf knows that one, and not the wrapped
	// one.
	c := in.layer.track(accepted)
	defer c.Close()
	from, err := in.layer.readHello(accepted)
	if err != nil {
		in.layer.logRefusal(accepted.RemoteAddr(), err)
		return
	}
	stream := &singleConnLayer{Conn: c, ended: make(chan struct{}), closed: make(chan struct{})}
	conf := in.conf
	conf.Stream = stream
	trans := raft.NewNetworkTransportWithConfig(&conf)
	defer trans.Close()
	forged := make(chan error, 1) // by a heartbeat
	trans.SetHeartbeatHandler(func(rpc raft.RPC) {
		handle := in.heartbeat.Load()
		err := checkSender(from, rpc.Command)
		switch {
		case err != nil:
			select {
			case forged <- err:
			default:
			}
		case handle == nil:
			in.forward(rpc, stream)
		default:
			(*handle)(rpc)
		}
	})
	for {
		select {
		case rpc := <-trans.Consumer():
			if err := checkSender(from, rpc.Command); err != nil {
				in.layer.logRefusal(accepted.RemoteAddr(), err)
				return
			}
			in.forward(rpc, stream)
		case err := <-forged:
			in.layer.logRefusal(accepted.RemoteAddr(), err)
			return
		case <-stream.ended:
			return
		case <-in.done:
			return
		}
	}
}

// pass hands an RPC to Raft.
func (in *inbound) forward(rpc raft.RPC, from *singleConnLayer) {
	select {
	case in.rpcs <- rpc:
	case <-from.ended:
	case <-in.done:
	}
}

// self has Raft carry out an RPC of this member's own, without a connection.
func (in *inbound) sendToSelf(command any) error {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case in.rpcs <- raft.RPC{Command: command, RespChan: answer}:
	case <-in.done:
		return errClosed
	}
	select {
	case r := <-answer:
		return r.Error
	case <-in.done:
		return errClosed
	}
}

// sentBy checks that every id in an RPC is that of the member that sent it.
func checkSender(id string, command any) error {
	var old []byte // where former versions of Raft put the id; it may be missing
	switch r := command.(type) {
	case *raft.AppendEntriesRequest:
		//lint:ignore SA1019 Raft still reads it when Addr is missing
		old = r.Leader
	case *raft.RequestVoteRequest:
		//lint:ignore SA1019 Raft still reads it when Addr is missing
		old = r.Candidate
	case *raft.InstallSnapshotRequest:
		old = r.Leader
	}
	with, ok := command.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("manager %s sends %T, which names no sender", id, command)
	}
	named := [][]byte{with.GetRPCHeader().ID, with.GetRPCHeader().Addr}
	if len(old) > 0 {
		named = append(named, old)
	}
	for _, n := range named {
		if string(n) != id {
			return fmt.Errorf("manager %s sends %T in the name of %q", id, command, n)
		}
	}
	return nil
}

// oneConn is a raft.StreamLayer that yields one connection, and knows when that has ended.
type singleConnLayer struct {
	net.Conn
	accepted  atomic.Bool
	ended     chan struct{} // closed with the connection
	closed    chan struct{} // closed with the layer
	endOnce   sync.Once
	closeOnce sync.Once
}

// Accept implements net.Listener.
func (o *singleConnLayer) Accept() (net.Conn, error) {
	if o.accepted.CompareAndSwap(false, true) {
		return notifyingConn{o.Conn, o}, nil
	}
	<-o.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (o *singleConnLayer) Close() error {
	o.closeOnce.Do(func() { close(o.closed) })
	return nil
}

// Addr implements net.Listener.
func (o *singleConnLayer) Addr() net.Addr { return o.LocalAddr() }

// Dial implements raft.StreamLayer. Nothing is dialled through a connection that somebody else
// opened.
func (o *singleConnLayer) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

type notifyingConn struct {
	net.Conn
	layer *singleConnLayer
}

func (c notifyingConn) Close() error {
	c.layer.endOnce.Do(func() { close(c.layer.ended) })
	return c.Conn.Close()
}
