// Command bench measures what the documents promise, one group at a time: `make bench ONLY=cold`. A
// figure is one line,
//
//	NAME VALUE UNIT  what the value was compared with
//
// Where a peer or a physical limit can run on the same machine, the figure is a ratio to it: both
// are measured in the same run, in turns, and the median of at least three is printed. Absolute
// times are for orientation, because machines differ.
//
// It drives the real binary (bin/swarm) in hosts made of network namespaces, through the same API
// as the command line. Package testbed has these hosts, peer what swarm is compared with, overlay
// the groups about the network, and figure the output.
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

	"swarm/bench/overlay"
	"swarm/bench/testbed"
)

// group is a set of figures that are measured together.
type group struct {
	name string
	run  func(ctx context.Context, e testbed.Env) error
	// peer says that the group runs another system's cluster for minutes. Only -peer runs it.
	peer bool
	// part says that the group is part of another one, or takes many minutes. It runs only by name.
	part bool
}

func groups() []group {
	return []group{
		{name: "placement", run: placement},
		{name: "services", run: services, part: true},
		{name: "latency", run: latency},
		{name: "cold", run: cold},
		{name: "containers", run: containers},
		{name: "logs", run: logs},
		{name: "image", run: images},
		{name: "idle", run: idle},
		{name: "churn", run: churn, part: true},
		{name: "net", run: overlay.Network},
		{name: "net-scale", run: overlay.Scale},
		{name: "propagation", run: overlay.Propagation, part: true},
		{name: "stream", run: overlay.Stream, part: true},
		{name: "vip", run: overlay.VirtualAddress, part: true},
		{name: "mesh", run: overlay.Mesh, part: true},
		{name: "attach", run: overlay.Attach, part: true},
		{name: "overlay", run: dockerOverlay, peer: true},
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
		return fmt.Errorf("rounds: got %d, want at least 3", rounds)
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
		err = g.run(ctx, testbed.Env{Binary: binary, Dir: dir, Archive: archive, Rounds: rounds})
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
