package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/metadata"

	"swarm/dev"
	"swarm/internal/stale"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
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
	if err := reads(ctx, c); err != nil {
		return err
	}
	figure("create_running_p50_ms", ms(create.median()), "ms", fmt.Sprintf("%d services of one replica, 3 managers, fsync, TLS, simulated runtime; SwarmKit 200", samples))
	figure("remove_gone_p50_ms", ms(remove.median()), "ms", "the same services, until no row of them is left; SwarmKit 455")
	return nil
}

// reads: what it costs that an answer is not older than the question, at the leader and at another manager.
func reads(ctx context.Context, c *cluster) error {
	const samples = 300
	for i, at := range []string{"leader", "follower"} {
		conn, err := transport.DialUnix(c.hosts[i].Socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		control := swarmv1.NewControlClient(conn)
		old := metadata.AppendToOutgoingContext(ctx, stale.Accept, "1")
		var confirmed, local times
		for j := range samples + 20 {
			for _, m := range []struct {
				ctx  context.Context
				into *times
			}{{ctx, &confirmed}, {old, &local}} {
				began := time.Now()
				if _, err := control.ListServices(m.ctx, &swarmv1.ListRequest{}); err != nil {
					return err
				}
				if j >= 20 {
					*m.into = append(*m.into, time.Since(began))
				}
			}
		}
		figure("list_p50_ms_"+at, ms(confirmed.median()), "ms",
			fmt.Sprintf("%d lists of services, confirmed with the managers; without it %.2f ms; goal: 2 ms or 1.3 times more, whichever is more", samples, ms(local.median())))
	}
	return nil
}
