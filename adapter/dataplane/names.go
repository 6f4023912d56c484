//go:build linux

package dataplane

import (
	"context"
	"log/slog"
	"time"

	"swarm/internal/pause"
	"swarm/overlay/resolve"
)

// ServeNames runs the name server of this host's containers until ctx ends. The daemon sends the
// records to the name server through the Unix socket. If the name server fails, ServeNames logs the
// error and starts it again after a second. It returns no error, because the containers can run
// without names.
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
