package main

import (
	"context"
	"fmt"
	"syscall"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
)

// containers measures 50 containers of a service on one host against 50 containers that are made
// with the same containerd alone, in turns.
func containers(ctx context.Context, e testbed.Env) error {
	const n, atOnce = 50, 4
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 1, Managers: 1}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	bare, err := peer.NewRuntime(ctx, c.Nodes[0], e)
	if err != nil {
		return err
	}
	defer bare.Close()
	var create, remove, bareCreate, bareRemove figure.Times
	for i := range e.Rounds {
		made, gone, err := testbed.CreateAndRemove(ctx, c.Control, testbed.Service(fmt.Sprintf("fifty%d", i), n), n, bare.Gone)
		if err != nil {
			return err
		}
		create, remove = append(create, made), append(remove, gone)
		if made, gone, err = bare.CreateAndRemove(n, atOnce, syscall.SIGTERM); err != nil {
			return fmt.Errorf("bare containers: %w", err)
		}
		bareCreate, bareRemove = append(bareCreate, made), append(bareRemove, gone)
	}
	compared := func(b figure.Times) string {
		return fmt.Sprintf("median of %d; bare, 4 at once: %s", e.Rounds, b.Seconds())
	}
	figure.Print("create50_s", create.Median().Seconds(), "s", compared(bareCreate))
	figure.Print("create50_ratio", figure.TimesRatio(create, bareCreate), "x", "to 50 bare containers, 4 at once, same containerd, same run; ours: "+create.Seconds())
	figure.Print("remove50_s", remove.Median().Seconds(), "s", compared(bareRemove))
	figure.Print("remove50_ratio", figure.TimesRatio(remove, bareRemove), "x", "the same; ours: "+remove.Seconds())
	return nil
}
