// Command bench measures what docs promise, one group at a time: `make bench ONLY=cold`. A figure is one line,
//
//	NAME VALUE UNIT  what it was compared with
//
// and wherever a peer or a physical limit can run on the same machine, a ratio to it in the same run, interleaved, median
// of at least three. Absolute times are for orientation: machines differ.
//
// It drives the real binary (bin/swarm) in hosts made of network namespaces, through the same API as the command line.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// group is a set of figures that are measured together.
type group struct {
	name string
	run  func(ctx context.Context, e env) error
	// peer: it runs another system's cluster for minutes; only -peer asks for it.
	peer bool
	// part of another group, or takes many minutes: run only when it is asked for.
	part bool
}

// env is where a group works.
type env struct {
	binary string
	// dir is the group's own, removed afterwards.
	dir string
	// archive is the test image.
	archive string
	rounds  int
}

// cgroup holds the containers that are not in a playground; no other run has it.
func (e env) cgroup() string { return "/swarm-" + filepath.Base(e.dir) }

func groups() []group {
	return []group{
		{name: "placement", run: placement},
		{name: "latency", run: latency},
		{name: "cold", run: cold},
		{name: "containers", run: containers},
		{name: "logs", run: logs},
		{name: "image", run: images},
		{name: "idle", run: idle},
		{name: "churn", run: churn, part: true},
		{name: "net", run: network},
		{name: "net-scale", run: netScale},
		{name: "propagation", run: propagation, part: true},
		{name: "stream", run: traffic((*netBench).throughput), part: true},
		{name: "vip", run: traffic((*netBench).addresses), part: true},
		{name: "mesh", run: traffic((*netBench).mesh), part: true},
		{name: "attach", run: traffic((*netBench).attach), part: true},
		{name: "overlay", run: peerOverlay, peer: true},
	}
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	only := flag.String("only", "", "groups to run, separated by commas; empty: all")
	peer := flag.Bool("peer", false, "the groups that run another system's cluster beside ours, instead of the others")
	binary := flag.String("binary", "bin/swarm", "swarm to measure")
	archive := flag.String("archive", "build/hello.tar", "image to run")
	rounds := flag.Int("rounds", 5, "rounds of each measurement, at least 3")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *peer, *binary, *archive, *rounds); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, only string, peer bool, binary, archive string, rounds int) error {
	if rounds < 3 {
		return fmt.Errorf("%d rounds give no median worth the name: at least 3", rounds)
	}
	var err error
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	if archive, err = filepath.Abs(archive); err != nil {
		return err
	}
	wanted := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	all := len(wanted) == 0
	for _, g := range groups() {
		if g.peer != peer || all && g.part || !all && !slices.Contains(wanted, g.name) {
			continue
		}
		dir, err := os.MkdirTemp("", "sb")
		if err != nil {
			return err
		}
		err = g.run(ctx, env{binary: binary, dir: dir, archive: archive, rounds: rounds})
		if rmErr := os.RemoveAll(dir); err == nil {
			err = rmErr
		}
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		wanted = slices.DeleteFunc(wanted, func(w string) bool { return w == g.name })
	}
	if len(wanted) > 0 {
		return fmt.Errorf("no group %q", wanted)
	}
	return nil
}

// figure prints one line.
func figure(name string, value float64, unit, compared string) {
	fmt.Printf("%s %.4g %s  %s\n", name, value, unit, compared)
}

// times collects durations of one measurement.
type times []time.Duration

func (t times) median() time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[len(sorted)/2]
}

func (t times) seconds() string {
	var parts []string
	for _, d := range t {
		parts = append(parts, fmt.Sprintf("%.2f", d.Seconds()))
	}
	return strings.Join(parts, " ")
}

// ratios gives the median of a[i]/b[i]: pairs were measured one after the other, so that what disturbed one disturbed
// the other.
func ratios(a, b times) float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i].Seconds()/b[i].Seconds())
	}
	slices.Sort(all)
	return all[len(all)/2]
}
