package table

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	swarmv1 "swarm/proto/swarm/v1"
)

// TestExplain checks the words that users see, and that the words and the code depend only on what
// is replicated.
func TestExplain(t *testing.T) {
	meta := func(version uint64) *swarmv1.Meta { return &swarmv1.Meta{Version: version} }
	stored := []*swarmv1.Change{
		Put(&swarmv1.Cluster{Id: "c", Epoch: 4}),
		Put(&swarmv1.Service{Id: "s1", Name: "Web"}),
		Put(&swarmv1.Claim{Key: "port/80", Owner: "s1"}),
		Put(&swarmv1.TaskStatus{TaskId: "t1", SessionEpoch: 2, Sequence: 5}),
	}
	for _, tt := range []struct {
		name   string
		epoch  uint64
		change *swarmv1.Change
		code   codes.Code
		words  string
	}{
		{"epoch", 3, stored[1], codes.FailedPrecondition, "the request is of cluster epoch 3; this is epoch 4"},
		{"exists", 4, Create(&swarmv1.Service{Id: "s1", Name: "other"}), codes.AlreadyExists, "service s1 exists"},
		{"claim", 4, Create(&swarmv1.Claim{Key: "port/80"}), codes.AlreadyExists, "claim port/80 exists and belongs to s1"},
		{"gone", 4, Delete(&swarmv1.ImageCopy{Digest: "d", NodeId: "n", Meta: meta(1)}), codes.NotFound, "image copy d/n is gone"},
		{"version", 4, Update(&swarmv1.Service{Id: "s1", Meta: meta(7)}), codes.Aborted, "service s1 has changed: its version is 1, not 7"},
		{
			"report", 4, Report(&swarmv1.TaskStatus{TaskId: "t1", SessionEpoch: 2, Sequence: 4}), codes.Aborted,
			"task status t1 has changed: report 2/4 is not newer than 2/5",
		},
		{"name", 4, Create(&swarmv1.Service{Id: "s2", Name: "wEB"}), codes.AlreadyExists, `service name "wEB" is taken by s1`},
	} {
		for _, format := range []uint32{1, formatRefusals} {
			r := newReplica()
			r.apply(t, 1, &swarmv1.Envelope{Format: format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{Group(stored...)}}}})
			env := &swarmv1.Envelope{Format: format, Epoch: tt.epoch, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{Group(tt.change)}}}}
			refused := r.apply(t, 2, env)[0].GetRefused()
			if len(refused) != 1 {
				t.Errorf("%s: got %v, want one refusal", tt.name, refused)
				continue
			}
			got := refused[0].GetResult()
			if words := Explain(got.GetRefusal()); words != tt.words || codes.Code(got.GetCode()) != tt.code {
				t.Errorf("%s: got %q with code %s, want %q with code %s", tt.name, words, codes.Code(got.GetCode()), tt.words, tt.code)
			}
			want := "" // replicated words
			if format < formatRefusals {
				want = tt.words
			}
			if got.GetError() != want {
				t.Errorf("%s in format %d: the replicated words are %q, want %q", tt.name, format, got.GetError(), want)
			}
		}
	}
}

// Each reason has words and a code of its own.
func TestExplain_EveryReason(t *testing.T) {
	for number, name := range swarmv1.GroupRefusal_Reason_name {
		reason := swarmv1.GroupRefusal_Reason(number)
		known := reason != swarmv1.GroupRefusal_UNKNOWN
		words := Explain(&swarmv1.GroupRefusal{Reason: reason})
		if known == strings.Contains(words, "does not know") || known == (refusalCode(reason) == codes.Unknown) {
			t.Errorf("%s: got %q with code %s", name, words, refusalCode(reason))
		}
	}
}
