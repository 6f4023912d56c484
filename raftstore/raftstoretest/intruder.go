package raftstoretest

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Intruder sends Raft RPCs to one member without being a member. It acts like a compromised node:
// it requests votes, and it sends entries as a leader would.
type Intruder struct {
	trans    *raft.NetworkTransport
	id       string
	header   raft.RPCHeader
	closeAll func() error
}

// intruderLayer dials and never accepts. It sends the hello of package raftstore first on every
// connection.
type intruderLayer struct {
	dial   func() (net.Conn, error)
	hello  []byte
	closed chan struct{}
	once   sync.Once
}

func (l *intruderLayer) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *intruderLayer) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *intruderLayer) Addr() net.Addr { return &net.IPAddr{} }

func (l *intruderLayer) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	_, err = c.Write(l.hello)
	return c, err
}

// NewIntruder returns an Intruder that uses id in its hellos and RPCs. dial opens a connection to
// the attacked member. Close it at the end.
func NewIntruder(id, clusterID string, dial func() (net.Conn, error)) *Intruder {
	hello := binary.BigEndian.AppendUint64([]byte("swr1"), 0)
	for _, s := range []string{id, clusterID} {
		hello = append(binary.AppendUvarint(hello, uint64(len(s))), s...)
	}
	layer := &intruderLayer{dial: dial, hello: hello, closed: make(chan struct{})}
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 1, Timeout: 5 * time.Second, MsgpackUseNewTimeFormat: true,
		Logger: hclog.NewNullLogger(),
	})
	return &Intruder{
		trans: trans, id: id, closeAll: trans.Close,
		header: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id)},
	}
}

// Close closes the Intruder's connections.
func (i *Intruder) Close() error {
	i.trans.CloseStreams()
	return i.closeAll()
}

// Claim sets the id in later RPCs. The id in the hello stays.
func (i *Intruder) Claim(id string) { i.header.ID, i.header.Addr = []byte(id), []byte(id) }

// Term requests the member's vote in term 0, which the member always refuses, and returns the
// member's term.
func (i *Intruder) Term() (uint64, error) {
	var out raft.RequestVoteResponse
	err := i.trans.RequestVote("victim", "victim", &raft.RequestVoteRequest{RPCHeader: i.header}, &out)
	return out.Term, err
}

// Append makes the member follow the Intruder in the next term, and commits one entry with the
// changes.
func (i *Intruder) Append(epoch uint64, changes ...*swarmv1.Change) error {
	term, err := i.Term()
	if err != nil {
		return err
	}
	term++
	var out raft.AppendEntriesResponse
	lead := &raft.AppendEntriesRequest{RPCHeader: i.header, Term: term}
	if err := i.trans.AppendEntries("victim", "victim", lead, &out); err != nil {
		return err
	}
	if !out.Success {
		return errors.New("the member does not follow")
	}
	env := &swarmv1.Envelope{
		Format: table.Format, Epoch: epoch, Time: timestamppb.Now(),
		Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{table.Group(changes...)}}},
	}
	data, err := env.MarshalVT()
	if err != nil {
		return err
	}
	index := out.LastLog + 1
	entry := &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data}
	forged := &raft.AppendEntriesRequest{RPCHeader: i.header, Term: term, Entries: []*raft.Log{entry}, LeaderCommitIndex: index}
	if err := i.trans.AppendEntries("victim", "victim", forged, &out); err != nil {
		return err
	}
	if !out.Success {
		return errors.New("the member does not take the entry")
	}
	return nil
}

// Rewrite makes the member follow the Intruder in the next term, and sends another entry for index
// than the member has. The entry before index must have term 1, or be missing if index is 1.
func (i *Intruder) Rewrite(index uint64) error {
	term, err := i.Term()
	if err != nil {
		return err
	}
	term++
	other := &raft.AppendEntriesRequest{
		RPCHeader: i.header, Term: term, PrevLogEntry: index - 1, PrevLogTerm: min(index-1, 1),
		Entries: []*raft.Log{{Index: index, Term: term, Type: raft.LogNoop}},
	}
	var out raft.AppendEntriesResponse
	if err := i.trans.AppendEntries("victim", "victim", other, &out); err != nil {
		return err
	}
	if !out.Success {
		return errors.New("the member does not take the entry")
	}
	return nil
}
