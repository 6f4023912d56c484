package doctor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestSurveyedNodes(t *testing.T) {
	got := SurveyedNodes(&swarmv1.SurveyResponse{Nodes: []*swarmv1.SurveyedNode{
		{
			NodeId: "n1", Hostname: "a", Addr: "192.0.2.1", ClockOffset: durationpb.New(time.Second), RoundTrip: durationpb.New(time.Millisecond),
			Out: []*swarmv1.TriedWay{{Network: "udp", Port: 4789, Purpose: "overlay networks", Bytes: 1450, Error: "nothing came"}},
			In:  []*swarmv1.TriedWay{{Network: "tcp", Port: 2377}},
		},
		{NodeId: "n2", Error: "no answer"},
	}})
	want := []Node{
		{Name: "a", Address: "192.0.2.1", Offset: time.Second, RoundTrip: time.Millisecond, Ways: []Way{
			{Network: "udp", Port: 4789, For: "overlay networks", Bytes: 1450, Reason: "nothing came"},
			{Network: "tcp", Port: 2377, In: true},
		}},
		{Name: "n2", Problem: "no answer"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := SurveyedNodes(nil); got != nil {
		t.Errorf("no answer: got %v", got)
	}
}
