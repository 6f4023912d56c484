package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sync/errgroup"

	"swarm/adapter/dataplane"
	"swarm/adapter/member"
	"swarm/adapter/monitor"
	"swarm/cli"
	"swarm/install"
	"swarm/install/process"
	"swarm/internal/footprint"
	"swarm/internal/logfile"
	"swarm/internal/notify"
	"swarm/node"
)

// runDaemon is the daemon of one host until ctx ends, through upgrades.
func runDaemon(ctx context.Context, o cli.DaemonOptions) error {
	ctx, stop := process.Watch(ctx)
	defer stop()
	starter, err := notify.TakeStarter()
	if err != nil {
		return err
	}
	if err := serveDaemon(ctx, o, starter); err != nil || !process.Replaced(ctx) {
		return err
	}
	return process.Become(starter)
}

// serveDaemon is the daemon of one host until ctx ends.
func serveDaemon(ctx context.Context, o cli.DaemonOptions, s notify.Starter) error {
	// A daemon outlives its terminal. Caught, not ignored: containers would inherit that.
	process.IgnoreHangups()
	// Nor has it to do with the umask of whoever starts it: users of containers read files that it writes.
	syscall.Umask(0o022)
	o, err := complete(o)
	if err != nil {
		return err
	}
	unlock, err := install.LockState(o.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	log, closeLog, err := logfile.NewLogger(logfile.Options{Level: o.LogLevel, JSON: o.LogFormat == "json", File: o.LogFile})
	if err != nil {
		return err
	}
	defer closeLog()
	if missing := cli.WithoutProfiles(versionInfo()); missing != "" {
		log.Warn(missing)
	}
	machine, err := node.MachineID(o.MachineID, o.StateDir)
	if err != nil {
		return err
	}
	shown, err := monitor.Listen(ctx, o.MetricsAddr, o.MetricsAsked, log)
	if err != nil {
		return err
	}
	if shown != nil {
		defer shown.Close()
	}
	h, err := newHost(o, log)
	if err != nil {
		return err
	}
	defer h.close()
	p := &parts{host: h, options: o, machine: machine, log: log, monitor: monitor.New(log, version, versionInfo().Build)}
	return p.run(ctx, p.newNode(s), shown, s)
}

func (p *parts) newNode(s notify.Starter) *node.Node {
	o := p.options
	return node.New(node.Config{
		StateDir: o.StateDir, RunDir: o.RunDir, Group: o.SocketGroup, Hostname: o.Hostname, MachineID: p.machine,
		Version: versionInfo(), HostChanges: p.host.changes(), ContainerdAddress: p.host.containerdAddress(),
		CgroupDriver: o.CgroupDriver, CgroupVersion: install.CgroupVersion(),
	}, node.Deps{
		Log: p.log, Found: member.Bootstrap, NewGossip: p.newGossip, NewWorker: p.newWorker, NewManager: p.newManager,
		Clean: p.host.clean, Describe: p.host.describe, CheckWays: dataplane.CheckJoin,
		Listening: func() {
			if err := s.Tell(notify.Ready); err != nil {
				p.log.Warn("the daemon's notify.Starter is gone", "err", err)
			}
		},
	})
}

// run runs the host and its node until they are told to end, and departs first where the host goes down. shown is where
// metrics are asked for, nil: nowhere.
func (p *parts) run(told context.Context, n *node.Node, shown net.Listener, s notify.Starter) error {
	// What ends a daemon does not end it before its last words.
	life, end := context.WithCancelCause(context.WithoutCancel(told))
	defer end(nil)
	g, ctx := errgroup.WithContext(life)
	g.Go(func() error {
		select {
		case <-told.Done():
			process.Depart(told, n.Depart, s, p.log)
			end(context.Cause(told))
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error {
		footprint.Keep(ctx, func() {
			if store := p.store.Load(); store != nil {
				store.Trim()
			}
			footprint.Free()
		})
		return nil
	})
	g.Go(func() error { return p.host.run(ctx) })
	if shown != nil {
		g.Go(func() error { return p.monitor.Serve(ctx, shown) })
	}
	g.Go(func() error {
		if err := p.host.ready(ctx); err != nil {
			return err
		}
		return n.Run(ctx)
	})
	return process.Wait(ctx, g.Wait, p.log)
}

// complete fills in what the command line left open.
func complete(o cli.DaemonOptions) (cli.DaemonOptions, error) {
	if o.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("the machine's name: %w: give one with --hostname", err)
		}
		o.Hostname = name
	}
	o.CgroupDriver, o.CgroupParent = install.New(install.Config{}).Cgroup(o.CgroupDriver, o.CgroupParent)
	if o.SocketGroup == "" {
		o.SocketGroup = "swarm"
	}
	return o, nil
}
