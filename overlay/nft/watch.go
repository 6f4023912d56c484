//go:build linux

package nft

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
)

// Watch calls check at once and then after changes of the host's nftables, at most once per
// interval, until ctx ends. It logs the errors of check.
func Watch(ctx context.Context, interval time.Duration, check func(context.Context) error, log *slog.Logger) error {
	rules := hostnet.Notices{Of: "nftables", Protocol: unix.NETLINK_NETFILTER, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	return hostnet.Watch(ctx, rules, interval, func(ctx context.Context) {
		if err := check(ctx); err != nil && ctx.Err() == nil {
			log.Warn("cannot check the host's firewall rules: the next change of them starts another check", "err", err)
		}
	})
}
