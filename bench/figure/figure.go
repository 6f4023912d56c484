// Package figure prints what a benchmark has measured, and computes medians and ratios. All groups
// of command bench use it. It has no state and no goroutines.
package figure

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Print writes one figure as a line to standard output: name, value, unit, and what the value was
// compared with.
func Print(name string, value float64, unit, compared string) {
	fmt.Printf("%s %.4g %s  %s\n", name, value, unit, compared)
}

// Times are the durations of one measurement.
type Times []time.Duration

// Median returns the median. There must be at least one duration.
func (t Times) Median() time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[len(sorted)/2]
}

// Seconds returns all durations in seconds, as one text.
func (t Times) Seconds() string {
	var parts []string
	for _, d := range t {
		parts = append(parts, fmt.Sprintf("%.2f", d.Seconds()))
	}
	return strings.Join(parts, " ")
}

// TimesRatio returns the median of a[i]/b[i]. The two of a pair are measured one after the other,
// so that a disturbance affects both.
func TimesRatio(a, b Times) float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i].Seconds()/b[i].Seconds())
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Ratio returns the median of a[i]/b[i], as TimesRatio does for durations.
func Ratio(a, b []float64) float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// List returns all values with three digits, as one text.
func List(all []float64) string {
	var parts []string
	for _, v := range all {
		parts = append(parts, fmt.Sprintf("%.3g", v))
	}
	return strings.Join(parts, " ")
}

// Millis returns a duration in milliseconds.
func Millis(d time.Duration) float64 { return d.Seconds() * 1000 }
