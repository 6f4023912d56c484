package converge

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
)

// lowScreen is a terminal with few lines.
type lowScreen struct {
	bytes.Buffer
	height int
}

func (s *lowScreen) Size() (width, height int, err error)  { return 80, s.height, nil }
func (*lowScreen) Raw() (func(), error)                    { return func() {}, nil }
func (*lowScreen) Resized(context.Context) <-chan struct{} { return nil }

// The progress fits the terminal, because lines that have scrolled off it cannot be drawn again.
func TestView_FitsTheTerminal(t *testing.T) {
	p := &swarmv1.ServiceProgress{ServiceName: "web", Desired: 15, Note: "rollback: x", StableIn: durationpb.New(time.Second)}
	for range 15 {
		p.Slots = append(p.Slots, &swarmv1.SlotProgress{Label: "1/15", State: swarmv1.TaskState_RUNNING})
	}
	for height, want := range map[int]int{8: 3, 18: 3, 19: 18, 50: 18} {
		screen := &lowScreen{height: height}
		newView(screen, false).show(p)
		if got := strings.Count(screen.String(), "\n"); got != want {
			t.Errorf("%d lines high: got %d lines, want %d", height, got, want)
		}
	}
}

// A task that an update has not touched yet is shown on a terminal only, where its line is drawn
// anew.
func TestProgressLines(t *testing.T) {
	p := &swarmv1.ServiceProgress{Running: 1, Desired: 3, Slots: []*swarmv1.SlotProgress{
		{Label: "1/3", State: swarmv1.TaskState_RUNNING},
		{Label: "2/3", State: swarmv1.TaskState_RUNNING, Outdated: true},
		{Label: "3/3"},
	}}
	if got, want := lines(p, true, 20), []string{"overall progress: 1 out of 3 tasks", "1/3: running", "2/3: running (old)", "3/3:"}; !slices.Equal(got, want) {
		t.Errorf("terminal: got %q, want %q", got, want)
	}
	if got, want := lines(p, false, 20), []string{"overall progress: 1 out of 3 tasks", "1/3: running"}; !slices.Equal(got, want) {
		t.Errorf("elsewhere: got %q, want %q", got, want)
	}
	if got, want := lines(&swarmv1.ServiceProgress{Job: true, Running: 1, Desired: 2}, true, 20), []string{"job progress: 1 out of 2 complete"}; !slices.Equal(got, want) {
		t.Errorf("job: got %q, want %q", got, want)
	}
}

func TestRest(t *testing.T) {
	for want, p := range map[string]*swarmv1.ServiceProgress{
		"": {Running: 2, Desired: 2},
		": 1 of 2 tasks ended with exit code 0 and is not restarted":  {Running: 1, Desired: 2, Ended: 1},
		": 2 of 3 tasks ended with exit code 0 and are not restarted": {Running: 1, Desired: 3, Ended: 2},
		"; 1 task is still being stopped":                             {Stopping: 1},
	} {
		if got := exceptions(p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
