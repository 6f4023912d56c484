package transport

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// inbound serves the connections that other members open. A raft.RPC does not tell which connection
// it came from, so each connection has its own raft.NetworkTransport. An RPC is forwarded to Raft
// if every id in it is the id of the authenticated peer. Any other id ends the connection.
type inbound struct {
	layer *streamLayer
	conf  raft.NetworkTransportConfig // for the transport of each connection, without its Stream
	rpcs  chan raft.RPC               // consumed by Raft

	heartbeat atomic.Pointer[func(raft.RPC)] // handles heartbeats; set by Raft, nil before

	done       chan struct{} // closed by close
	once       sync.Once
	goroutines sync.WaitGroup
}

func newInbound(layer *streamLayer, conf raft.NetworkTransportConfig) *inbound {
	in := &inbound{layer: layer, conf: conf, rpcs: make(chan raft.RPC), done: make(chan struct{})}
	if layer.deps.Listener != nil {
		in.goroutines.Go(in.accept)
	}
	return in
}

// close ends every connection and waits for the goroutines. The layer must be closed first.
func (in *inbound) close() {
	in.once.Do(func() { close(in.done) })
	in.goroutines.Wait()
}

// accept accepts connections until the listener is closed.
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
		in.layer.log.Warn("cannot accept a Raft connection; retrying", "err", err, "again_in", wait)
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

// serve forwards the RPCs of one connection until it ends.
func (in *inbound) serve(accepted net.Conn) {
	// readHello gets the accepted connection and not c, because Deps.PeerOf does not know c.
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
	forged := make(chan error, 1) // receives the error of a heartbeat that names another id
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

// forward gives an RPC to Raft.
func (in *inbound) forward(rpc raft.RPC, from *singleConnLayer) {
	select {
	case in.rpcs <- rpc:
	case <-from.ended:
	case <-in.done:
	}
}

// sendToSelf makes Raft handle an RPC from this member to itself, without a connection.
func (in *inbound) sendToSelf(command any) error {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case in.rpcs <- raft.RPC{Command: command, RespChan: answer}:
	case <-in.done:
		return net.ErrClosed
	}
	select {
	case r := <-answer:
		return r.Error
	case <-in.done:
		return net.ErrClosed
	}
}

// checkSender returns an error unless every sender's id in an RPC is the given id.
func checkSender(id string, command any) error {
	var old []byte // the sender's id in a deprecated field; may be empty
	switch r := command.(type) {
	case *raft.AppendEntriesRequest:
		//lint:ignore SA1019 Raft still reads it if Addr is empty
		old = r.Leader
	case *raft.RequestVoteRequest:
		//lint:ignore SA1019 Raft still reads it if Addr is empty
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

// singleConnLayer is a raft.StreamLayer that accepts one connection and no other. It closes ended
// when that connection is closed.
type singleConnLayer struct {
	net.Conn
	accepted  atomic.Bool
	ended     chan struct{} // closed when the connection is closed
	closed    chan struct{} // closed when the layer is closed
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

// Dial implements raft.StreamLayer. It always fails, because the transport of an accepted
// connection only receives RPCs.
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
