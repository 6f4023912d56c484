package raftstore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

func logOf(tb testing.TB, index uint64, env *swarmv1.Envelope) *raft.Log {
	tb.Helper()
	data, err := env.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
}

// If this build cannot judge an entry as the other members do, the entry must stop it.
func TestApply_StopsAtWhatItDoesNotKnow(t *testing.T) {
	newer, _ := (&swarmv1.Envelope{Format: table.Format + 1}).MarshalVT()
	good, _ := (&swarmv1.Envelope{Format: table.Format}).MarshalVT()
	empty, _ := (&swarmv1.Envelope{Format: table.Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{{Changes: []*swarmv1.Change{{}}}}}}}).MarshalVT()
	for name, data := range map[string][]byte{
		"a newer format": newer, "an unknown field": append(bytes.Clone(good), 0xfa, 0x7f, 1, 'x'), "garbage": []byte("\xff\xff\xff"),
		"a change without an operation": empty, "nothing": nil,
	} {
		f := newFSM()
		f.Apply(logOf(t, 1, &swarmv1.Envelope{Format: table.Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{table.Group(table.Create(&swarmv1.Claim{Key: "a"}))}}}}))
		done := make(chan any, 1)
		go func() {
			defer close(done)
			done <- f.Apply(&raft.Log{Index: 2, Type: raft.LogCommand, Data: data})
		}()
		if res, applied := <-done; applied {
			t.Errorf("%s: it was applied: %v", name, res)
		}
		select {
		case err := <-f.halted:
			if (name == "a newer format" || name == "an unknown field") && !errors.Is(err, table.ErrUnknownFormat) {
				t.Errorf("%s: got %v", name, err)
			}
		default:
			t.Errorf("%s: nobody is told", name)
		}
		if v := f.view(); v.Index() != 1 || v.Claims.Len() != 1 {
			t.Errorf("%s: the view is at %d", name, v.Index())
		}
	}
}
