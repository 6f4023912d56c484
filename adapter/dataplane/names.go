//go:build linux

package dataplane

import (
	"context"
	"log/slog"
	"time"

	"swarm/internal/pause"
	"swarm/overlay/resolve"
)

// ServeNames runs the name server of this host's containers until ctx ends. The daemon sends it its
// records through the Unix socket. A name server that fails is logged and started again after a
// second, because containers run without it.
func ServeNames(ctx context.Context, socket string, log *slog.Logger) {
	for {
		err := resolve.New(resolve.Config{Socket: socket}, resolve.Deps{Log: log}).Run(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Error("names are not answered", "err", err, "retry", time.Second)
		if pause.For(ctx, time.Second) != nil {
			return
		}
	}
}
