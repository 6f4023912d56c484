//go:build linux

// Package observe looks at this host, and through its daemon at the other nodes, for package
// doctor.
//
// The package owns what `swarm doctor` looks at and how: it makes each device, rule, cgroup, mount
// and socket that swarm needs, reads what cannot be tried, and asks the daemon what only that
// knows. It takes back what it has made before it returns. It judges nothing and repairs nothing.
//
// cmd/swarm calls it for `swarm doctor`, as root. Goroutines: one that is locked to a thread, in
// which the overlay file system is tried, and those of package overlay/survey; Host waits for both.
package observe

import (
	"context"

	"google.golang.org/grpc"

	"swarm/doctor"
	"swarm/overlay/probe"
	"swarm/overlay/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

// defaultGossipPort is the gossip port unless `swarm init` chooses another one.
const defaultGossipPort = 7946

// Request says which host to look at.
type Request struct {
	// StateDir is the daemon's state folder, which need not exist.
	StateDir string
	// ClusterPort is the TCP port that a new member will open.
	ClusterPort uint16
	// Runc is the program that starts the containers of this host.
	Runc doctor.Runc
	// Info is what this host's daemon says about itself, and Conn leads to that daemon. Both are
	// nil if no daemon answers.
	Info *swarmv1.InfoResponse
	Conn grpc.ClientConnInterface
}

// Host returns what is seen of this host. A part that cannot be seen has its problem in the result;
// the error is that of ctx, or says that no network namespace could be made.
func Host(ctx context.Context, r Request) (doctor.Observations, error) {
	features, err := survey.Kernel()
	if err != nil {
		return doctor.Observations{}, err
	}
	o := doctor.Observations{
		Cgroup: cgroup(), Clock: clock(), Disk: stateDisk(r.StateDir), DNS: dns(ctx, "/etc/resolv.conf"),
		Sysctls: sysctls(), Firewall: firewall(), Runc: r.Runc,
	}
	for _, f := range features {
		o.Features = append(o.Features, doctor.Feature{Name: f.Name, Module: f.Module, For: f.For, Reason: errorText(f.Err)})
	}
	o.Features = append(o.Features, seccomp())
	mtu, err := survey.MTU()
	o.MTU, o.MTUProblem = mtu, errorText(err)
	o.Cluster.State = r.Info.GetLocalNodeState()
	var self *swarmv1.SurveyedSelf
	if o.Cluster.Active() {
		var answer *swarmv1.SurveyResponse
		answer, err = swarmv1.NewDoctorClient(r.Conn).Survey(ctx, &swarmv1.SurveyRequest{})
		o.Cluster.Nodes, o.Cluster.Problem, self = doctor.SurveyedNodes(answer), errorText(err), answer.GetSelf()
	} else {
		o.Ports = ports(ctx, r.ClusterPort)
	}
	o.Networks = networks(ctx, r, self)
	return o, ctx.Err()
}

// ports tries the ports that a host must have free to become a member.
func ports(ctx context.Context, cluster uint16) []doctor.Port {
	wanted := []doctor.Port{
		{Network: "tcp", Number: cluster, For: "the cluster", Flag: "--listen-addr ADDRESS:PORT"},
		{Network: "tcp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: probe.DefaultDataPort, For: "overlay networks", Flag: "--data-path-port PORT"},
	}
	for i, p := range wanted {
		wanted[i] = port(ctx, p)
	}
	return wanted
}

// sysctls reads the kernel settings that are judged. It omits those that the kernel does not have.
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

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
