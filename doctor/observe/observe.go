//go:build linux

// Package observe looks at this host, and through its daemon at the other nodes, for package
// doctor.
//
// The package makes a device, rule, cgroup, mount and socket of each kind that swarm needs, to see
// whether the host allows it. It reads the settings that cannot be tried, and asks the daemon for
// the state that only the daemon has. Before it returns, it removes everything that it has made. It
// judges nothing and repairs nothing.
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

// Request says where the parts of swarm are on this host.
type Request struct {
	// StateDir is the daemon's state folder, which need not exist.
	StateDir string
	// ClusterPort is the TCP port that a new member will open.
	ClusterPort uint16
	// Runc is the program that starts the containers of this host.
	Runc doctor.Runc
	// Info is the daemon's information about itself, and Conn is a connection to the daemon. Both
	// are nil if no daemon answers.
	Info *swarmv1.InfoResponse
	Conn grpc.ClientConnInterface
}

// Host returns the observations of this host. If a part cannot be observed, the result has the
// problem. Host fails only if ctx ends or if no network namespace can be made.
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
	o.Cluster.State, o.Cluster.Error = r.Info.GetLocalNodeState(), r.Info.GetError()
	var self *swarmv1.SurveyedSelf
	if o.Cluster.Active() {
		var answer *swarmv1.SurveyResponse
		answer, err = swarmv1.NewDoctorClient(r.Conn).Survey(ctx, &swarmv1.SurveyRequest{})
		o.Cluster.Nodes, o.Cluster.Problem, self = doctor.SurveyedNodes(answer), errorText(err), answer.GetSelf()
		addUnavailable(ctx, r.Conn, answer.GetNodes(), o.Cluster.Nodes)
	} else {
		o.Ports = ports(ctx, r.ClusterPort)
	}
	o.Networks = networks(ctx, r, self)
	return o, ctx.Err()
}

// addUnavailable stores in nodes why they take no new tasks. surveyed has the ids of the same
// nodes, in this order. If the daemon is no manager or does not answer, it changes nothing.
func addUnavailable(ctx context.Context, conn grpc.ClientConnInterface, surveyed []*swarmv1.SurveyedNode, nodes []doctor.Node) {
	list, err := swarmv1.NewControlClient(conn).ListNodes(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return
	}
	for i, n := range surveyed {
		for _, l := range list.GetNodes() {
			if l.GetNode().GetId() == n.GetNodeId() {
				nodes[i].Unavailable = l.GetState().GetDescription().GetUnavailable()
			}
		}
	}
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
