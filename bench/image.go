package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// images measures the time in which a large image gets from the one host that has it to four other
// hosts in parallel.
func images(ctx context.Context, e testbed.Env) error {
	const padding = 200 << 20
	archive := filepath.Join(e.Dir, "large.tar")
	hello := filepath.Join(filepath.Dir(e.Archive), "hello")
	cmd := exec.CommandContext(ctx, "go", "run", "swarm/scenarios/mkimage", "-o", archive, "-t", "swarm/large:1", "-padding", fmt.Sprint(padding), hello)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the image: %w\n%s", err, out)
	}
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	var took figure.Times
	var ratios []float64
	for i := range e.Rounds {
		one := e
		one.Dir = filepath.Join(e.Dir, fmt.Sprint(i))
		spread, bytes, err := spreadRound(ctx, one, archive)
		if err != nil {
			return err
		}
		took, ratios = append(took, spread), append(ratios, float64(bytes)/float64(info.Size()))
	}
	plain, err := copyTime(ctx, archive, 4)
	if err != nil {
		return err
	}
	slices.Sort(ratios)
	figure.Print("image_spread_s", took.Median().Seconds(), "s", fmt.Sprintf(
		"200 MB to 4 further hosts, until a container of it runs on each: %s; 4 local copies of the archive with their digests: %.2f s", took.Seconds(), plain.Seconds()))
	figure.Print("image_first_sent_ratio", ratios[len(ratios)/2], "x", fmt.Sprintf("bytes that the first host sent, to the image's; of %d rounds %.2f; one host to all: 4; goal 2.5", e.Rounds, ratios))
	return nil
}

// spreadRound makes five hosts, loads the image on the first, and starts a container of it on each.
func spreadRound(ctx context.Context, e testbed.Env, archive string) (time.Duration, int64, error) {
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 5, Managers: 1})
	if err != nil {
		return 0, 0, err
	}
	defer c.Down()
	defer os.RemoveAll(e.Dir)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	before, err := testbed.BytesSent(c.Playground, c.Nodes[0].Name)
	if err != nil {
		return 0, 0, err
	}
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return 0, 0, err
	}
	if err := c.LoadImage(ctx, archive); err != nil {
		return 0, 0, err
	}
	spec := testbed.Service("everywhere", 0)
	spec.TaskTemplate.ContainerSpec.Image = "swarm/large:1"
	spec.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
	began := time.Now()
	if err := testbed.Create(ctx, c.Control, w, spec, 5); err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	after, err := testbed.BytesSent(c.Playground, c.Nodes[0].Name)
	return took, after - before, err
}

// copyTime returns the time to copy the archive n times with digests. The hosts share the
// processors and the disk of one machine, so that this is their limit.
func copyTime(ctx context.Context, archive string, n int) (time.Duration, error) {
	began := time.Now()
	for i := range n {
		target := fmt.Sprintf("%s.%d", archive, i)
		cmd := exec.CommandContext(ctx, "sh", "-c", `tee "$2" <"$1" | sha256sum >/dev/null`, "sh", archive, target)
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("copy the archive: %w: %s", err, out)
		}
		if err := os.Remove(target); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}
