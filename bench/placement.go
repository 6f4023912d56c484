package main

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"swarm/bench/figure"
	"swarm/bench/testbed"
)

// placement runs the planner's Go benchmarks and prints their own metric, tasks placed a second.
func placement(ctx context.Context, e testbed.Env) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=^BenchmarkPlacement", "-count", strconv.Itoa(e.Rounds), "swarm/manager/planner")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^BenchmarkPlacement/(\S+?)(?:-\d+)?\s.*?([\d.e+]+) tasks/s`)
	found := map[string][]float64{}
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		rate, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return err
		}
		found[m[1]] = append(found[m[1]], rate)
	}
	if len(found) == 0 {
		return fmt.Errorf("no result in\n%s", out)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		rates := found[name]
		slices.Sort(rates)
		figure.Print("placement_"+strings.ReplaceAll(name, "/", "_"), rates[len(rates)/2], "tasks/s",
			fmt.Sprintf("median of %d; SwarmKit's scheduler places 17,000/s of 100k tasks on 1k nodes", len(rates)))
	}
	return nil
}
