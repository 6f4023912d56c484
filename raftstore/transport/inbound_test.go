//lint:file-ignore SA1019 an attacker sends deprecated fields as well

package transport

import (
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func TestCheckSender(t *testing.T) {
	head := func(id, addr string) raft.RPCHeader {
		return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)}
	}
	good := head("n1", "n1")
	for _, tt := range []struct {
		name    string
		command any
		says    string // part of the error; "": no error
	}{
		{"entries", &raft.AppendEntriesRequest{RPCHeader: good}, ""},
		{"entries of an old version", &raft.AppendEntriesRequest{RPCHeader: good, Leader: []byte("n1")}, ""},
		{"entries of another leader", &raft.AppendEntriesRequest{RPCHeader: good, Leader: []byte("n2")}, `"n2"`},
		{"entries with another id", &raft.AppendEntriesRequest{RPCHeader: head("n2", "n1")}, `"n2"`},
		{"entries with another address", &raft.AppendEntriesRequest{RPCHeader: head("n1", "n2")}, `"n2"`},
		{"entries without a sender", &raft.AppendEntriesRequest{}, `""`},
		{"a longer id", &raft.AppendEntriesRequest{RPCHeader: head("n11", "n1")}, `"n11"`},
		{"a vote", &raft.RequestVoteRequest{RPCHeader: good}, ""},
		{"a vote for another", &raft.RequestVoteRequest{RPCHeader: good, Candidate: []byte("n2")}, `"n2"`},
		{"a vote with another id", &raft.RequestVoteRequest{RPCHeader: head("n2", "n2")}, `"n2"`},
		{"a vote beforehand", &raft.RequestPreVoteRequest{RPCHeader: good}, ""},
		{"a vote beforehand with another id", &raft.RequestPreVoteRequest{RPCHeader: head("n2", "n2")}, `"n2"`},
		{"a snapshot", &raft.InstallSnapshotRequest{RPCHeader: good}, ""},
		{"a snapshot of another leader", &raft.InstallSnapshotRequest{RPCHeader: good, Leader: []byte("n2")}, `"n2"`},
		{"a hand-over", &raft.TimeoutNowRequest{RPCHeader: good}, ""},
		{"a hand-over by another", &raft.TimeoutNowRequest{RPCHeader: head("n2", "n2")}, `"n2"`},
		{"no message of Raft's", "hello", "names no sender"},
	} {
		err := checkSender("n1", tt.command)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.says)
		}
	}
}

// FuzzReadHello reads hellos that the holder of any manager's certificate could send.
func FuzzReadHello(f *testing.F) {
	layer := newStreamLayer(
		Config{NodeID: "n1", ClusterID: "c1", Epoch: func() uint64 { return 0 }}, Deps{Log: slog.New(slog.DiscardHandler)},
	)
	f.Add(layer.hello())
	f.Add([]byte(helloMagic))
	f.Add([]byte("swr1\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write(data)
			_ = there.Close()
		}()
		id, err := layer.readHello(here)
		_ = here.Close()
		if err == nil && len(id) > 256 {
			t.Errorf("an id of %d bytes", len(id))
		}
	})
}
