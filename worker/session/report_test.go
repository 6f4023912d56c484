package session

import (
	"fmt"
	"strings"
	"testing"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// drained takes all reports and acknowledges each. It fails the test if managers would refuse one.
func drained(t *testing.T, r *reports) (out []*swarmv1.StatusReport) {
	t.Helper()
	for report := r.next(7, false); report != nil; report = r.next(7, false) {
		if len(out) == 100 {
			t.Fatal("there is no end to the reports")
		}
		if report.GetSequence() != uint64(len(out)+1) {
			t.Errorf("report %d has sequence %d", len(out)+1, report.GetSequence())
		}
		if _, left, err := bounds.Report(report); err != nil || left != "" {
			t.Errorf("managers refuse report %d: %v %s", report.GetSequence(), err, left)
		}
		out = append(out, report)
		r.ack(report.GetSequence())
	}
	return out
}

func fill(r *reports, n int, text string) {
	for i := range n {
		r.add(&swarmv1.TaskStatus{TaskId: fmt.Sprintf("t%d", i), State: swarmv1.TaskState_RUNNING, Err: text}, true)
	}
}

// Statuses that are too many or too large for one report make several. Each status is in one of
// them.
func TestReports_AreSplit(t *testing.T) {
	for _, c := range []struct {
		name    string
		tasks   int
		text    string
		reports int
	}{
		{"few", 10, "short", 1},
		{"many", 2*bounds.MaxUpdates + 1, "", 3},
		{"large", 1000, strings.Repeat("x", bounds.MaxText), 13},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReports()
			fill(r, c.tasks, c.text)
			seen := map[string]int{}
			got := drained(t, r)
			for _, report := range got {
				for _, st := range report.GetUpdates() {
					seen[st.GetTaskId()]++
					if st.GetErr() != c.text || st.GetSessionEpoch() != 7 || st.GetSequence() != report.GetSequence() {
						t.Fatalf("report %d has %.200v", report.GetSequence(), st)
					}
				}
			}
			if len(got) != c.reports || len(seen) != c.tasks {
				t.Errorf("%d statuses made %d reports with %d, want %d reports with all", c.tasks, len(got), len(seen), c.reports)
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("%s is in %d reports", id, n)
				}
			}
		})
	}
}

// A status that is too large for any report, such as one that an older daemon left on the disk, is
// cut to the size that managers accept. It does not hold up the others, and is not sent again.
func TestReports_OneTooLargeIsCut(t *testing.T) {
	r := newReports()
	huge := &swarmv1.TaskStatus{TaskId: "huge", State: swarmv1.TaskState_FAILED, Err: "\x1b[2J" + strings.Repeat("x", 3<<20)}
	for i := range 100_000 {
		huge.PortStatus = append(huge.PortStatus, &swarmv1.PortConfig{TargetPort: 80, PublishedPort: uint32(1 + i%65535), PublishMode: swarmv1.PortConfig_HOST})
	}
	r.add(huge, true)
	fill(r, 10, "")
	r.begin()
	got := drained(t, r)
	if len(got) != 1 || len(got[0].GetUpdates()) != 11 {
		t.Fatalf("%d reports, want one with 11 statuses", len(got))
	}
	for _, st := range got[0].GetUpdates() {
		if st.GetTaskId() == "huge" && (st.SizeVT() > bounds.MaxStatus || st.GetState() != swarmv1.TaskState_FAILED || !bounds.IsPlain(strings.Trim(st.GetErr(), "…\uFFFD"))) {
			t.Errorf("a status of %d bytes is reported, %s %.20q", st.SizeVT(), st.GetState(), st.GetErr())
		}
	}
	r.begin() // another session
	if again := r.next(8, true); again != nil {
		t.Errorf("the next session begins with %d statuses that were acknowledged", len(again.GetUpdates()))
	}
}
