package main

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/cli"
	"swarm/doctor"
	"swarm/node"
	"swarm/overlay/gossip"
	"swarm/overlay/probe"
	"swarm/overlay/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

// defaultGossipPort is a node's unless `swarm init` chooses another.
const defaultGossipPort = 7946

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
	built := versionInfo()
	if r.Info.GetVersion() != nil {
		built = r.Info.GetVersion() // of the daemon, which starts the containers
	}
	o.Runc = doctor.Runc{Version: built.GetRunc(), NoProfiles: cli.WithoutProfiles(built)}
	mtu, err := survey.MTU()
	o.MTU, o.MTUProblem = mtu, errorText(err)
	if r.Info != nil {
		o.Cluster.State = r.Info.LocalNodeState
	}
	var self *swarmv1.SurveyedSelf
	if o.Cluster.Active() {
		var answer *swarmv1.SurveyResponse
		answer, err = swarmv1.NewDoctorClient(r.Conn).Survey(ctx, &swarmv1.SurveyRequest{})
		o.Cluster.Nodes, o.Cluster.Problem, self = surveyed(answer), errorText(err), answer.GetSelf()
	} else {
		o.Ports = ports(ctx)
	}
	o.Networks = networks(ctx, r, self)
	return o, ctx.Err()
}

// ports of a host that is no member must be free.
func ports(ctx context.Context) []doctor.Port {
	wanted := []doctor.Port{
		{Network: "tcp", Number: cli.DefaultPort, For: "the cluster", Flag: "--listen-addr ADDRESS:PORT"},
		{Network: "tcp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: defaultGossipPort, For: "gossip", Flag: "--gossip-port PORT"},
		{Network: "udp", Number: probe.DefaultDataPort, For: "overlay networks", Flag: "--data-path-port PORT"},
	}
	for i, p := range wanted {
		wanted[i] = doctor.ObservePort(ctx, p)
	}
	return wanted
}

// surveyed is what the daemon found when it tried the ways to and from the other nodes.
func surveyed(answer *swarmv1.SurveyResponse) []doctor.Node {
	var nodes []doctor.Node
	for _, n := range answer.GetNodes() {
		name := n.Hostname
		if name == "" {
			name = "node " + n.NodeId
		}
		nodes = append(nodes, doctor.Node{
			Name: name, Address: n.Addr, Problem: n.Error, Offset: n.ClockOffset.AsDuration(), RoundTrip: n.RoundTrip.AsDuration(),
			Ways: slices.Concat(triedWays(n.Out, false), triedWays(n.In, true)),
		})
	}
	return nodes
}

func triedWays(tried []*swarmv1.TriedWay, in bool) []doctor.Way {
	var ways []doctor.Way
	for _, w := range tried {
		ways = append(ways, doctor.Way{
			Network: w.Network, Port: uint16(w.Port), For: w.Purpose, In: in, Bytes: int(w.Bytes), Reason: w.Error,
		})
	}
	return ways
}

// newProber tries the ways between a member and those that it gossips with.
func newProber(hostname string, g *gossipMember, b node.Base, self func(context.Context) (*swarmv1.SurveyedSelf, error)) *probe.Prober {
	return probe.New(probe.Config{Hostname: hostname, Data: dataPath(b.Membership)}, probe.Deps{
		Others: func() []probe.Node { return g.others(b.Membership) }, Ping: g.Ping, Self: self,
		Dial: func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) },
	})
}

// others lists the other nodes that belong here, those that do not answer among them. Where they
// are is what the managers tell: packets are sent there. The ports of gossip and of overlay
// networks are the same on all nodes.
func (g *gossipMember) others(own node.Membership) []probe.Node {
	members, _ := g.Gossip.Members()
	return probed(g.self, members, g.Peer, own)
}

// probed lists the members that the managers know. Gossip goes on naming a node that was removed
// while it was dead.
func probed(self string, members []gossip.Member, peer func(id string) (gossip.Peer, bool), own node.Membership) []probe.Node {
	var out []probe.Node
	for _, m := range members {
		p, ok := peer(m.ID)
		if m.ID == self || m.Status == gossip.Left || !ok {
			continue
		}
		out = append(out, probe.Node{
			ID: m.ID, Addr: p.Addr, Port: p.Port, GossipPort: own.GossipPort,
			Data: netip.AddrPortFrom(p.DataAddr, dataPath(own).Port()),
		})
	}
	return out
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

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// dataPath is where a member takes packets of overlay networks.
func dataPath(m node.Membership) netip.AddrPort {
	addr, err := netip.ParseAddr(m.DataPathAddr)
	if err != nil {
		addr, _ = netip.ParseAddr(m.Addr) // was parsed when the host joined
	}
	return netip.AddrPortFrom(addr, cmp.Or(m.DataPathPort, probe.DefaultDataPort))
}

// admit is what a host that joins is told of this manager, if it has proved a join token.
func (m *managerMember) admit(ctx context.Context) (probe.Manager, error) {
	if err := m.Admits(ctx); err != nil {
		return probe.Manager{}, err
	}
	own := m.base.Membership
	addr, err := netip.ParseAddr(own.Addr)
	return probe.Manager{Hostname: m.hostname, Addr: addr, Port: own.Port, GossipPort: own.GossipPort, Data: dataPath(own)}, err
}

// Register adds what only managers do for hosts that join.
func (m *managerMember) Register(r grpc.ServiceRegistrar) {
	m.Manager.Register(r)
	swarmv1.RegisterAdmissionServer(r, probe.NewJoinServer(m.admit))
}

// checkWays has the ways between this host and a manager tried, and refuses when one is blocked.
func checkWays(ctx context.Context, conn grpc.ClientConnInterface, m node.Membership) error {
	addr, err := netip.ParseAddr(m.Addr)
	if err != nil {
		return err
	}
	bind := netip.IPv4Unspecified()
	if addr.Is6() {
		bind = netip.IPv6Unspecified()
	}
	met, err := probe.Join(ctx, swarmv1.NewAdmissionClient(conn), probe.Joiner{
		Addr: addr, Port: m.Port, DataAddr: dataPath(m).Addr(), Bind: bind,
	})
	if err != nil {
		return err
	}
	reason := doctor.JudgeJoin(doctor.Node{
		Name: met.Hostname, Address: met.Addr, Ways: slices.Concat(triedWays(met.Out, false), triedWays(met.In, true)),
	}, m.Addr)
	if reason == "" {
		return nil
	}
	return errdefs.ErrFailedPrecondition.WithMessage(reason + "; to join all the same: --skip-network-check")
}
