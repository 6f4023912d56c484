package schedule

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	got, err := time.Parse("2006-01-02 15:04 -0700", text)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// times returns the times of a schedule after one and up to another time.
func times(t *testing.T, expression, zone, from, to string) []string {
	t.Helper()
	s, err := Parse(expression, zone)
	if err != nil {
		t.Fatal(err)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, due := range s.Due(at(t, from), at(t, to), 100) {
		out = append(out, due.In(location).Format("01-02 15:04 -0700"))
	}
	return out
}

func TestSchedule_Times(t *testing.T) {
	for _, c := range []struct {
		expression, zone, from, to string
		want                       []string
	}{
		{"*/20 * * * *", "", "2026-03-01 10:00 +0000", "2026-03-01 11:00 +0000", []string{"03-01 10:20 +0000", "03-01 10:40 +0000", "03-01 11:00 +0000"}},
		{"@daily", "Asia/Tokyo", "2026-03-01 10:00 +0900", "2026-03-03 00:00 +0900", []string{"03-02 00:00 +0900", "03-03 00:00 +0900"}},
		// The clock of Berlin jumps from 02:00 to 03:00 on 29 March 2026.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 00:00 +0100", "2026-03-31 00:00 +0200", []string{"03-28 02:30 +0100", "03-30 02:30 +0200"}},
		{"0 * * * *", "Europe/Berlin", "2026-03-29 00:00 +0100", "2026-03-29 04:00 +0200", []string{"03-29 01:00 +0100", "03-29 03:00 +0200", "03-29 04:00 +0200"}},
		// It shows 02:00 to 03:00 twice on 25 October 2026.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00 +0200", "2026-10-26 12:00 +0100", []string{"10-25 02:30 +0200", "10-26 02:30 +0100"}},
		{"0 * * * *", "Europe/Berlin", "2026-10-25 01:00 +0200", "2026-10-25 03:00 +0100", []string{"10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"}},
	} {
		if got := times(t, c.expression, c.zone, c.from, c.to); !slices.Equal(got, c.want) {
			t.Errorf("%s in %s from %s to %s:\ngot  %q\nwant %q", c.expression, c.zone, c.from, c.to, got, c.want)
		}
	}
}

// After a long outage, Due returns the newest times without a look at all that were missed.
func TestSchedule_LongOutage(t *testing.T) {
	now := at(t, "2026-03-01 10:00 +0000")
	s, err := Parse("* * * * *", "")
	if err != nil {
		t.Fatal(err)
	}
	due := s.Due(now.AddDate(-30, 0, 0), now, 3)
	if len(due) != 3 || !due[2].Equal(now) || !due[0].Equal(now.Add(-2*time.Minute)) {
		t.Errorf("got %v", due)
	}
	if due := s.Due(now.Add(time.Hour), now, 3); due != nil {
		t.Errorf("the clock was set back: got %v", due)
	}
}

func TestParse_Refuses(t *testing.T) {
	for _, c := range []struct{ expression, zone, says string }{
		{"* * * *", "", "cannot be read"},
		{"61 * * * *", "", "cannot be read"},
		{"", "", "cannot be read"},
		{"0 0 30 2 *", "", "never fires"},
		{"0 0 * * *", "Mars/Olympus", "is not known"},
	} {
		if _, err := Parse(c.expression, c.zone); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q in %q: got %v, want %q", c.expression, c.zone, err, c.says)
		}
	}
}
