package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/metadata"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/internal/stale"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// latency measures the control plane: three managers with fsync and TLS, and a runtime that does
// nothing.
func latency(ctx context.Context, e testbed.Env) error {
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 3, Managers: 3, DaemonArgs: []string{"--simulated"}})
	if err != nil {
		return err
	}
	defer c.Down()
	const samples = 50
	var create, remove figure.Times
	for i := range samples + 5 {
		made, gone, err := testbed.CreateAndRemove(ctx, c.Control, testbed.Service(fmt.Sprintf("latency%d", i), 1), 1, nil)
		if err != nil {
			return err
		}
		if i >= 5 { // The first calls open connections.
			create, remove = append(create, made), append(remove, gone)
		}
	}
	if err := reads(ctx, c); err != nil {
		return err
	}
	figure.Print("create_running_p50_ms", figure.Millis(create.Median()), "ms", fmt.Sprintf("%d services of one replica, 3 managers, fsync, TLS, simulated runtime; SwarmKit 200", samples))
	figure.Print("remove_gone_p50_ms", figure.Millis(remove.Median()), "ms", "the same services, until no row of them is left; SwarmKit 455")
	return nil
}

// reads measures reads that are confirmed with the other managers, so that no answer is out of
// date, against reads of the replica alone, at the leader and at a follower.
func reads(ctx context.Context, c *testbed.Cluster) error {
	const samples = 300
	for i, at := range []string{"leader", "follower"} {
		conn, err := transport.DialUnix(c.Nodes[i].Socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		control := swarmv1.NewControlClient(conn)
		old := metadata.AppendToOutgoingContext(ctx, stale.Accept, "1")
		var confirmed, local figure.Times
		for j := range samples + 20 {
			for _, m := range []struct {
				ctx  context.Context
				into *figure.Times
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
		figure.Print("list_p50_ms_"+at, figure.Millis(confirmed.Median()), "ms",
			fmt.Sprintf("%d lists of services, confirmed with the managers; without it %.2f ms; goal: 2 ms or 1.3 times more, whichever is more", samples, figure.Millis(local.Median())))
	}
	return nil
}
