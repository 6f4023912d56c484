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
	"swarm/cli/daemon"
	"swarm/cli/term"
	"swarm/install"
	"swarm/install/process"
	"swarm/internal/footprint"
	"swarm/internal/logfile"
	"swarm/internal/notify"
	"swarm/node"
)

// runDaemon runs the daemon of this host until ctx ends. After an upgrade, it becomes the new
// build.
func runDaemon(ctx context.Context, o daemon.Options) error {
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

// serveDaemon runs the daemon of this host, as this build, until ctx ends.
func serveDaemon(ctx context.Context, o daemon.Options, s notify.Starter) error {
	// A daemon outlives its terminal.
	process.IgnoreHangups()
	// The umask of the process that starts the daemon must not count: containers read its files.
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
	if missing := term.WithoutProfiles(versionInfo()); missing != "" {
		log.Warn(missing)
	}
	machine, err := node.MachineID(o.MachineID, o.StateDir)
	if err != nil {
		return err
	}
	metrics, err := monitor.Listen(ctx, o.MetricsAddr, o.MetricsAsked, log)
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	h, err := newHost(o, log)
	if err != nil {
		return err
	}
	defer h.close()
	p := &parts{host: h, options: o, machine: machine, log: log, monitor: monitor.New(log, version, versionInfo().Build)}
	return p.run(ctx, p.newNode(s), metrics, s)
}

func (p *parts) newNode(s notify.Starter) *node.Node {
	o := p.options
	return node.New(node.Config{
		StateDir: o.StateDir, RunDir: o.RunDir, Group: o.SocketGroup, Hostname: o.Hostname, MachineID: p.machine,
		Version: versionInfo(), HostChanges: p.host.changes(), ContainerdAddress: p.host.containerdAddress(),
		CgroupDriver: o.CgroupDriver, CgroupVersion: install.CgroupVersion(),
	}, node.Deps{
		Log: p.log, Bootstrap: member.Bootstrap, NewGossip: p.newGossip, NewWorker: p.newWorker, NewManager: p.newManager,
		Clean: p.host.clean, Describe: p.host.describe, CheckNetwork: dataplane.CheckJoin,
		Listening: func() {
			if err := s.Tell(notify.Ready); err != nil {
				p.log.Warn("the process that started the daemon does not answer", "err", err)
			}
		},
	})
}

// run runs the host and its node until ended ends. If the host goes down, the node departs first.
// metrics serves the metrics, and may be nil.
func (p *parts) run(ended context.Context, n *node.Node, metrics net.Listener, s notify.Starter) error {
	// The parts go on while the node departs.
	life, end := context.WithCancelCause(context.WithoutCancel(ended))
	defer end(nil)
	g, ctx := errgroup.WithContext(life)
	g.Go(func() error {
		select {
		case <-ended.Done():
			process.Depart(ended, n.Depart, s, p.log)
			end(context.Cause(ended))
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
	if metrics != nil {
		g.Go(func() error { return p.monitor.Serve(ctx, metrics) })
	}
	g.Go(func() error {
		if err := p.host.ready(ctx); err != nil {
			return err
		}
		return n.Run(ctx)
	})
	return process.Wait(ctx, g.Wait, p.log)
}

// complete fills in the options that the command line left empty.
func complete(o daemon.Options) (daemon.Options, error) {
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
