package facts_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"swarm/internal/facts"
	swarmv1 "swarm/proto/swarm/v1"
)

// A description that is reported later changes no fact, and the rest of it is taken over.
func TestHold(t *testing.T) {
	const stored = `platform{os:"linux" architecture:"x86_64"} engine{labels{key:"disk" value:"hdd"}} resources{nano_cpus:1 generic{kind:"gpu" named:"a"} generic{kind:"ssd" value:3}}`
	for _, c := range []struct{ name, stored, reported, pending string }{
		{"the same", stored, `platform{os:"linux" architecture:"x86_64"} engine{labels{key:"disk" value:"hdd"}} resources{generic{kind:"ssd" value:3} generic{kind:"gpu" named:"a"}}`, ""},
		{"labels", stored, `platform{os:"linux" architecture:"x86_64"} engine{labels{key:"disk" value:"ssd"} labels{key:"vault" value:"yes"}} resources{generic{kind:"gpu" named:"a"} generic{kind:"ssd" value:3}}`, "engine label disk=ssd (was disk=hdd); engine label vault=yes (new)"},
		{"all", stored, `platform{os:"linux" architecture:"aarch64" variant:"v8"}`, "platform linux/aarch64/v8 (was linux/x86_64); engine label disk=hdd (removed); generic resources none (was gpu=a,ssd=3)"},
		{"nothing at first", ``, stored, "platform linux/x86_64 (was none); engine label disk=hdd (new); generic resources gpu=a,ssd=3 (was none)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, now := parse(t, c.stored), parse(t, c.reported)
			now.Unavailable = "its disk is full"
			d, pending := facts.Hold(old, now)
			if changed := facts.Changes(facts.Of(old), facts.Of(d)); len(changed) > 0 {
				t.Errorf("facts of the stored description: got changes %q, want none", changed)
			}
			if d.GetUnavailable() != "its disk is full" {
				t.Errorf("the rest: got %v, want what was reported", d)
			}
			var got string
			if pending != nil {
				got = strings.Join(facts.Changes(facts.Of(d), pending), "; ")
			}
			if got != c.pending {
				t.Errorf("pending: got %q, want %q", got, c.pending)
			}
			if pending == nil {
				return
			}
			if left := facts.Changes(facts.Of(facts.With(d, pending)), facts.Of(now)); len(left) > 0 {
				t.Errorf("after the pending facts are accepted: got changes %q, want none", left)
			}
		})
	}
}

func parse(t *testing.T, text string) *swarmv1.NodeDescription {
	t.Helper()
	d := &swarmv1.NodeDescription{}
	if err := prototext.Unmarshal([]byte(text), d); err != nil {
		t.Fatal(err)
	}
	return d
}
