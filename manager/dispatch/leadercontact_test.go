package dispatch

import (
	"testing"
	"time"
)

func TestLeaderContact_ALongGapBeginsAgain(t *testing.T) {
	const gap = 3 * time.Second
	begin := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	var c leaderContact
	for _, step := range []struct {
		answered, asked int // seconds
		want            time.Duration
	}{
		{0, 0, 0},
		{2, 4, 4 * time.Second},
		{4, 6, 6 * time.Second},
		{6, 9, 0}, // during a long gap
		{10, 11, time.Second},
		{12, 14, 4 * time.Second},
	} {
		c.answered(at(step.answered), gap)
		if got := c.unbroken(at(step.asked), gap); got != step.want {
			t.Errorf("%d s, last answer at %d s: leaders have answered for %s, want %s", step.asked, step.answered, got, step.want)
		}
	}
	if got := new(leaderContact).unbroken(begin, gap); got != 0 {
		t.Errorf("no leader has ever answered: got %s, want 0", got)
	}
}
