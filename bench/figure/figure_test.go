package figure

import (
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	a := Times{3 * time.Second, time.Second, 2 * time.Second}
	if got := a.Median(); got != 2*time.Second {
		t.Errorf("median of %v: got %v", a, got)
	}
	if got := a.Seconds(); got != "3.00 1.00 2.00" {
		t.Errorf("seconds of %v: got %q", a, got)
	}
	if got := Millis(1500 * time.Microsecond); got != 1.5 {
		t.Errorf("milliseconds: got %v", got)
	}
}

// A ratio is the median of the ratios of pairs, which is not the ratio of the medians.
func TestRatio(t *testing.T) {
	a, b := []float64{1, 8, 9}, []float64{1, 4, 3} // ratios 1, 2 and 3; medians 8 and 3
	if got := Ratio(a, b); got != 2 {
		t.Errorf("Ratio(%v, %v) = %v, want 2", a, b, got)
	}
	seconds := func(all []float64) (out Times) {
		for _, v := range all {
			out = append(out, time.Duration(v*float64(time.Second)))
		}
		return out
	}
	if got := TimesRatio(seconds(a), seconds(b)); got != 2 {
		t.Errorf("TimesRatio(%v, %v) = %v, want 2", a, b, got)
	}
	if got := List([]float64{1.2345, 20}); got != "1.23 20" {
		t.Errorf("List: got %q", got)
	}
}
