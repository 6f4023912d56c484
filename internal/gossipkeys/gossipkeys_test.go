package gossipkeys

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

var start = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

// key formats a key as "number age", with "+" in front of a standby key.
func key(n uint64, age time.Duration, standby bool) *swarmv1.EncryptionKey {
	return &swarmv1.EncryptionKey{
		Subsystem: Subsystem, Key: []byte{byte(n)}, LamportTime: n, Since: timestamppb.New(start.Add(-age)), Standby: standby,
	}
}

func words(keys []*swarmv1.EncryptionKey) string {
	var out []string
	for _, k := range keys {
		plus := ""
		if k.Standby {
			plus = "+"
		}
		out = append(out, fmt.Sprintf("%s%d %s", plus, k.LamportTime, start.Sub(k.Since.AsTime())))
	}
	return strings.Join(out, ", ")
}

func TestStep(t *testing.T) {
	type keys = []*swarmv1.EncryptionKey
	for _, tt := range []struct {
		name string
		keys keys
		want string
		wait time.Duration
	}{
		{"none", nil, "", Period},
		{"young", keys{key(1, time.Hour, false)}, "1 1h0m0s", 11 * time.Hour},
		{"due", keys{key(1, Period, false)}, "1 12h0m0s, +2 0s", Settle},
		{"standby not known everywhere", keys{key(1, Period, false), key(2, 4*time.Second, true)}, "1 12h0m0s, +2 4s", 6 * time.Second},
		{"standby settled", keys{key(1, Period, false), key(2, Settle, true)}, "2 0s, 1 12h0m0s", Retain},
		{"former decrypts", keys{key(2, time.Minute, false), key(1, Period, false)}, "2 1m0s, 1 12h0m0s", 9 * time.Minute},
		{"former goes", keys{key(2, Retain, false), key(1, Period, false)}, "2 10m0s", Period - Retain},
		{"former goes, standby stays", keys{key(2, Retain, false), key(1, Period, false), key(3, 0, true)}, "2 10m0s, +3 0s", Settle},
		{"leader's clock was ahead", keys{key(1, -time.Hour, false)}, "1 -1h0m0s", 13 * time.Hour},
		{"never stamped", keys{{Subsystem: Subsystem, LamportTime: 1}}, "1 " + start.Sub(time.Unix(0, 0)).String() + ", +2 0s", Settle},
	} {
		got, wait := Step(tt.keys, []byte{9}, start)
		if words(got) != tt.want || wait != tt.wait {
			t.Errorf("%s: got %s, then %s; want %s, %s", tt.name, words(got), wait, tt.want, tt.wait)
		}
		if again, _ := Step(got, []byte{8}, start); words(again) != words(got) {
			t.Errorf("%s: a second look at once changes %s into %s", tt.name, words(got), words(again))
		}
	}
}

// At every step, each node understands the nodes that are one step behind or ahead.
func TestStep_NeighboursUnderstandEachOther(t *testing.T) {
	keys, now := []*swarmv1.EncryptionKey{key(1, 0, false)}, start
	has := func(all []*swarmv1.EncryptionKey, k *swarmv1.EncryptionKey) bool {
		for _, o := range all {
			if o.LamportTime == k.LamportTime {
				return true
			}
		}
		return false
	}
	rotations := map[uint64]bool{}
	for i := range 40 {
		next, wait := Step(keys, []byte{byte(i)}, now)
		if !has(keys, next[0]) || !has(next, keys[0]) {
			t.Fatalf("%s does not understand %s", words(keys), words(next))
		}
		if wait <= 0 {
			t.Fatalf("%s: look again after %s", words(next), wait)
		}
		rotations[next[0].LamportTime] = true
		keys, now = next, now.Add(wait)
	}
	if len(rotations) < 10 {
		t.Errorf("%d rotations in 40 steps", len(rotations))
	}
}

func TestReplace(t *testing.T) {
	keys := []*swarmv1.EncryptionKey{key(1, time.Hour, false)}
	for n := range 20 {
		keys = Replace(keys, []byte{byte(n)}, start)
		if words(keys) != fmt.Sprintf("1 1h0m0s, +%d 0s", n+2) && n == 0 {
			t.Errorf("got %s", words(keys))
		}
		if len(keys) != 2 {
			t.Fatalf("two keys on standby: %s", words(keys))
		}
	}
	now := start
	for range 20 { // a node is removed every 11 s
		now = now.Add(Settle)
		keys, _ = Step(keys, nil, now)
		now = now.Add(time.Second)
		keys = Replace(keys, nil, now)
	}
	if len(keys) != maxKeys || !keys[len(keys)-1].Standby || keys[0].LamportTime != 40 {
		t.Errorf("%d keys: %s", len(keys), words(keys))
	}
}
