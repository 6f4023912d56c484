package transport

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A send must not block when Raft has stopped reading answers, because Raft would then never close
// the pipeline.
func TestPipeline_SendsThoughNobodyReads(t *testing.T) {
	from, to := loopback(t), loopback(t)
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		for {
			select {
			case rpc := <-to.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 2}, nil)
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-answering })
	p, err := (&Transport{NetworkTransport: from}).AppendEntriesPipeline("to", to.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	const sends = 5
	sent := make(chan error, 1)
	go func() {
		for i := range sends {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}); err != nil {
				sent <- fmt.Errorf("send %d: %w", i, err)
				return
			}
		}
		sent <- nil
	}()
	select {
	case err = <-sent:
	case <-time.After(10 * time.Second):
		t.Fatal("a send waits for a reader")
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range sends {
		if f := <-p.Consumer(); f.Error() != nil || f.Response().Term != 2 {
			t.Fatalf("answer %d is %v, error %v; want term 2", i, f.Response(), f.Error())
		}
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func loopback(t *testing.T) *raft.NetworkTransport {
	t.Helper()
	trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 5*time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trans.Close() })
	return trans
}
