package task

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// states returns the states in order. It reads them from the enum, so that a new state cannot be
// forgotten.
func states() []State {
	var all []State
	for _, n := range slices.Sorted(maps.Keys(swarmv1.TaskState_name)) {
		all = append(all, State(n))
	}
	return all
}

func desires() []State {
	return []State{isReady, running, shutdown, swarmv1.TaskState_REMOVE}
}

func TestStep_StatesOnlyMoveForward(t *testing.T) {
	for _, observed := range states() {
		for _, desired := range states() {
			for _, event := range Events() {
				got, action, err := Step(observed, desired, event)
				at := fmt.Sprintf("Step(%s, %s, %s) = %s, %s, %v", observed, desired, event, got, action, err)
				if got < observed {
					t.Errorf("%s: moved backward", at)
				}
				if err != nil && (got != observed || action != Rest || !errdefs.IsFailedPrecondition(err)) {
					t.Errorf("%s: an error must change nothing and be a failed precondition", at)
				}
				if Terminal(observed) && got != observed {
					t.Errorf("%s: left a terminal state", at)
				}
				if Terminal(got) && !Terminal(observed) && action != Clean {
					t.Errorf("%s: ended without cleaning up", at)
				}
				if Stops(desired) && (action == Accept || action == Prepare || action == Start || action == Probe || action == Watch) {
					t.Errorf("%s: goes on though the task should stop", at)
				}
			}
		}
	}
}

// Every state that a worker can find has a row for Look. Otherwise a restarted daemon could not
// continue with such a task.
func TestStep_LookIsAlwaysAnswered(t *testing.T) {
	for _, observed := range []State{assigned, accepted, preparing, isReady, starting, running, complete, shutdown, failed, rejected} {
		for _, desired := range states() {
			if _, _, err := Step(observed, desired, Look); err != nil {
				t.Error(err)
			}
		}
	}
}

// Every event that can end an action is known in each state of that action, for every desired
// state. Following the events, each task reaches Rest.
func TestStep_EveryOutcomeOfAnActionIsKnown(t *testing.T) {
	outcomes := map[Action][]Event{
		Accept:  {Accepted},
		Prepare: {Prepared, Refused},
		Start:   {Started, Refused},
		Probe:   {Healthy, Sick, Ended, Broke},
		Watch:   {Sick, Ended, Broke},
		Stop:    {Stopped},
		Clean:   {Cleaned},
		Rest:    {Look},
	}
	type at struct {
		state  State
		action Action
	}
	seen := map[at]bool{}
	var walk func(at)
	walk = func(a at) {
		if seen[a] {
			return
		}
		seen[a] = true
		for _, desired := range desires() {
			for _, event := range append(slices.Clone(outcomes[a.action]), Look) {
				state, action, err := Step(a.state, desired, event)
				if err != nil {
					t.Errorf("after %s: %v", a.action, err)
					continue
				}
				walk(at{state, action})
			}
		}
	}
	walk(at{assigned, Rest})
	for _, r := range table {
		found := false
		for a := range seen {
			found = found || a.state == r.in
		}
		if !found {
			t.Errorf("no task ever comes to %s, which the table has", r.in)
		}
	}
}

func TestStep_RulesDoNotOverlap(t *testing.T) {
	for i, a := range table {
		for _, b := range table[i+1:] {
			if a.in == b.in && a.on == b.on && a.when&b.when != 0 {
				t.Errorf("two rules for %s on %s", a.in, a.on)
			}
		}
	}
}

func TestStep_Golden(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %-9s", "IS", "HAPPENS")
	for _, d := range desires() {
		fmt.Fprintf(&b, " %-20s", "SHOULD BE "+d.String())
	}
	header := strings.TrimRight(b.String(), " ")
	b.Reset()
	b.WriteString(header + "\n")
	for _, observed := range states() {
		for _, event := range Events() {
			line, any := fmt.Sprintf("%-10s %-9s", observed, event), false
			for _, desired := range desires() {
				cell := "-"
				if state, action, err := Step(observed, desired, event); err == nil {
					cell, any = state.String()+" "+action.String(), true
				}
				line += fmt.Sprintf(" %-20s", cell)
			}
			if any {
				b.WriteString(strings.TrimRight(line, " ") + "\n")
			}
		}
	}
	path := filepath.Join("testdata", "table.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the table differs from %s (go test -update writes it):\n%s", path, diff)
	}
}
