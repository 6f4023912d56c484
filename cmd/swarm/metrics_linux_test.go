package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"swarm/internal/metrics"
	"swarm/internal/metrics/metricstest"
)

func TestMetricsKeepToConventions(t *testing.T) {
	problems, err := metricstest.Lint(newFamilies().all)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// Whoever reads the page must be able to rely on it.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[metrics.Kind]string{metrics.Gauge: "gauge", metrics.Counter: "counter", metrics.Histogram: "histogram"}
	rows := 0
	for _, f := range newFamilies().all {
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", f.Name, kinds[f.Kind], unit(f.Name), strings.Join(f.Labels, ", "), f.Help)
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/metrics.md has no row\n%s", row)
		}
		rows++
	}
	if has := strings.Count(string(page), "| `swarm_"); has != rows {
		t.Errorf("docs/metrics.md has %d rows, and there are %d metrics", has, rows)
	}
}

// unit is what a name says of it.
func unit(name string) string {
	for _, u := range []string{"bytes", "seconds", "packets"} {
		if strings.Contains(name, "_"+u) {
			return u
		}
	}
	return ""
}
