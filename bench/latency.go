package main

import (
	"context"
	"fmt"

	"swarm/dev"
)

// latency: three managers with fsync and TLS, and a runtime that does nothing, so that what is left is the control plane.
func latency(ctx context.Context, e env) error {
	c, err := bring(ctx, e, dev.Options{Nodes: 3, Managers: 3, DaemonArgs: []string{"--simulated"}})
	if err != nil {
		return err
	}
	defer c.down()
	const samples = 50
	var create, remove times
	for i := range samples + 5 {
		made, gone, err := createAndRemove(ctx, c.control, service(fmt.Sprintf("latency%d", i), 1), 1, nil)
		if err != nil {
			return err
		}
		if i >= 5 { // The first ones open connections.
			create, remove = append(create, made), append(remove, gone)
		}
	}
	figure("create_running_p50_ms", ms(create.median()), "ms", fmt.Sprintf("%d services of one replica, 3 managers, fsync, TLS, simulated runtime; SwarmKit 200", samples))
	figure("remove_gone_p50_ms", ms(remove.median()), "ms", "the same services, until no row of them is left; SwarmKit 455")
	return nil
}
