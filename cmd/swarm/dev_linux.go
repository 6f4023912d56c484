package main

import (
	"context"

	devcli "swarm/cli/dev"
	"swarm/dev"
)

// playgrounds connects package dev to the command line.
func playgrounds() devcli.Maker { return devHosts{} }

type devHosts struct{}

func (devHosts) Up(ctx context.Context, o devcli.Options, progress func(string)) error {
	_, err := dev.Up(ctx, dev.Options{
		Name: o.Name, Nodes: o.Nodes, Managers: o.Managers, Root: o.Root, Subnet: o.Subnet, MTU: o.MTU, Disk: o.Disk,
		DaemonArgs: o.DaemonArgs, InitArgs: o.InitArgs, JoinArgs: o.JoinArgs, NoCluster: o.NoCluster,
		KeepFailed: o.KeepFailed, StartTimeout: o.StartTimeout, Progress: progress,
	})
	return err
}

func (devHosts) Down(ctx context.Context, name string) error { return dev.Down(ctx, name) }

func (devHosts) Playgrounds() ([]string, error) { return dev.List() }

func (devHosts) Hosts(name string) ([]devcli.Host, error) {
	p, err := dev.Open(name)
	if err != nil {
		return nil, err
	}
	hosts, err := p.Hosts()
	out := make([]devcli.Host, 0, len(hosts))
	for _, h := range hosts {
		out = append(out, devcli.Host{
			Name: h.Name, Role: string(h.Role), Address: h.Address.String(), State: string(h.State), PID: h.PID,
			Unplugged: h.Unplugged, Socket: h.Socket, StateDir: h.StateDir, Log: h.Log, Namespace: h.Namespace,
		})
	}
	return out, err
}

func (devHosts) Shell(name, host string, argv []string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Shell(host, argv...) })
}

func (devHosts) Kill(ctx context.Context, name, host string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Kill(ctx, host) })
}

func (devHosts) Stop(ctx context.Context, name, host string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Stop(ctx, host) })
}

func (devHosts) PowerOff(ctx context.Context, name, host string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.PowerOff(ctx, host) })
}

func (devHosts) Start(ctx context.Context, name, host string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Start(ctx, host) })
}

func (devHosts) Cut(name string, c devcli.Cut) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Cut(dev.Cut(c)) })
}

func (devHosts) Heal(name string, hosts []string) error {
	return inPlayground(name, func(p *dev.Playground) error { return p.Heal(hosts...) })
}

func inPlayground(name string, do func(*dev.Playground) error) error {
	p, err := dev.Open(name)
	if err != nil {
		return err
	}
	return do(p)
}
