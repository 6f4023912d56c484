package main

import (
	"context"
	"os"

	"github.com/containerd/errdefs"

	"swarm/cli"
	"swarm/doctor"
	"swarm/overlay/survey"
)

// The ports of a node unless `swarm init` chooses others.
const (
	defaultGossipPort = 7946
	defaultVXLANPort  = 4789
)

// diagnose has the host looked at, and the findings told.
func diagnose(ctx context.Context, r cli.DoctorRequest) ([]cli.Finding, error) {
	if os.Geteuid() != 0 {
		return nil, errdefs.ErrPermissionDenied.WithMessage("the doctor tries what the daemon will do, which only root may: run this command as root")
	}
	o, err := observe(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []cli.Finding
	for _, f := range doctor.Judge(o) {
		out = append(out, cli.Finding{
			Level: string(f.Level), Subject: f.Subject, Text: f.Text, Remedy: f.Remedy, Broken: f.Level == doctor.Failure,
		})
	}
	return out, nil
}

func observe(ctx context.Context, r cli.DoctorRequest) (doctor.Observations, error) {
	features, err := survey.Kernel()
	if err != nil {
		return doctor.Observations{}, err
	}
	o := doctor.Observations{
		Cgroup: doctor.ObserveCgroup(), Clock: doctor.ObserveClock(), Disk: doctor.ObserveDisk(r.StateDir),
		DNS: doctor.ObserveDNS(ctx, "/etc/resolv.conf"), Sysctls: sysctls(), Firewall: firewall(),
	}
	for _, f := range features {
		o.Features = append(o.Features, doctor.Feature{Name: f.Name, Module: f.Module, For: f.For, Reason: errorText(f.Err)})
	}
	o.Features = append(o.Features, doctor.ObserveSeccomp())
	mtu, err := survey.MTU()
	o.MTU, o.MTUProblem = mtu, errorText(err)
	if r.Info != nil {
		o.Cluster.State = r.Info.LocalNodeState
	}
	if !o.Cluster.Active() {
		o.Ports = ports(ctx)
	}
	return o, ctx.Err()
}

// ports of a host that is no member must be free.
func ports(ctx context.Context) []doctor.Port {
	wanted := []doctor.Port{
		{Network: "tcp", Number: cli.DefaultPort, For: "the cluster", Flag: "--listen-addr ADDRESS:PORT"},
		{Network: "tcp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: defaultVXLANPort, For: "overlay networks", Flag: "--data-path-port PORT"},
	}
	for i, p := range wanted {
		wanted[i] = doctor.ObservePort(ctx, p)
	}
	return wanted
}

// sysctls reads as many as there are.
func sysctls() []doctor.Sysctl {
	var out []doctor.Sysctl
	for _, key := range doctor.SysctlKeys() {
		value, fixed, err := survey.Sysctl(key)
		if err == nil {
			out = append(out, doctor.Sysctl{Key: key, Value: value, Fixed: fixed})
		}
	}
	return out
}

func firewall() doctor.Firewall {
	f, err := survey.ReadFirewall()
	return doctor.Firewall{ForwardDrop: f.ForwardDrop, InputDrop: f.InputDrop, Legacy: f.Legacy, Problem: errorText(err)}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
