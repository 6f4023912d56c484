package network

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

func newInspect(deps *command.Deps) *cobra.Command {
	var verbose bool
	c := command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] NETWORK [NETWORK...]", Short: "Display detailed information on one or more networks", Complete: complete.Networks(deps, complete.IsAnyNetwork),
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			return inspectedNetwork(ctx, c, ref, verbose)
		},
	})
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics: services, tasks and hosts on the network")
	return c
}

func inspectedNetwork(ctx context.Context, c command.Client, ref string, verbose bool) (term.Object, error) {
	n, err := c.GetNetwork(ctx, &swarmv1.GetRequest{Id: ref})
	if err != nil {
		return nil, err
	}
	o := object(n, verbose)
	if !verbose || n.GetNetwork().GetVni() == 0 {
		return o, nil
	}
	s, err := c.SurveyNetwork(ctx, &swarmv1.GetRequest{Id: n.GetNetwork().GetId()})
	return append(o, term.Member{"Hosts", hosts(s)}), err
}

// object returns a network in Docker's shape, with the use of its subnets; with verbose also its
// services and tasks.
func object(info *swarmv1.NetworkInfo, verbose bool) term.Object {
	n := info.GetNetwork()
	s := n.GetSpec()
	configs := []any{}
	for _, c := range n.GetIpam().GetConfigs() {
		config := term.Object{{"Subnet", c.GetSubnet()}}
		config = append(config, term.Optional("IPRange", c.GetRange(), c.GetRange() != ""), term.Member{"Gateway", c.GetGateway()})
		for _, u := range info.GetUse() {
			if u.GetSubnet() == c.GetSubnet() {
				config = append(config, term.Member{"Used", u.GetUsed()}, term.Member{"Total", u.GetTotal()}, term.Member{"Exhausted", u.GetUsed() >= u.GetTotal()})
			}
		}
		configs = append(configs, config)
	}
	o := term.Object{
		{"Name", s.GetName()},
		{"Id", n.GetId()},
		{"Created", term.Stamp(n.GetMeta().GetCreatedAt())},
		{"Scope", scope(n)},
		{"Driver", s.GetDriverConfig().GetName()},
		{"EnableIPv6", s.GetIpv6Enabled()},
		{"IPAM", term.Object{{"Driver", "default"}, {"Config", configs}}},
		{"Internal", s.GetInternal()},
		{"HostAccess", s.GetHostAccess()},
		{"Attachable", s.GetAttachable()},
		{"Ingress", s.GetIngress()},
		{"VNI", n.GetVni()},
		{"Version", n.GetMeta().GetVersion()},
		{"Options", term.Pairs(s.GetDriverConfig().GetOptions())},
		{"Labels", term.Pairs(s.GetLabels())},
	}
	peers := []any{}
	for _, p := range info.GetPeers() {
		peer := term.Object{{"Name", p.GetHostname()}, {"ID", p.GetNodeId()}, {"IP", p.GetAddr()}}
		peers = append(peers, append(peer, term.Optional("Addresses", p.GetMeshAddresses(), len(p.GetMeshAddresses()) > 0)))
	}
	return append(o, term.Member{"Peers", peers}, term.Optional("Services", services(info), verbose))
}

// services returns the services on the network by name, each with its tasks there.
func services(info *swarmv1.NetworkInfo) term.Object {
	hosts := map[string]*swarmv1.Peering{}
	for _, p := range info.GetPeers() {
		hosts[p.GetNodeId()] = p
	}
	services := term.Object{}
	for _, r := range info.GetServices() {
		vips := []any{}
		for _, v := range r.GetEndpoint().GetVirtualIps() {
			if v.GetNetworkId() == info.GetNetwork().GetId() {
				vips = append(vips, v.GetAddr())
			}
		}
		tasks := []any{}
		for _, b := range info.GetBackends() {
			if b.GetServiceId() == r.GetServiceId() {
				tasks = append(tasks, backendObject(info, r, b, hosts[b.GetNodeId()]))
			}
		}
		services = append(services, term.Member{r.GetName(), term.Object{
			{"ID", r.GetServiceId()}, {"VIPs", vips}, {"Ports", term.PortList(r.GetEndpoint().GetPorts())}, {"Tasks", tasks},
		}})
	}
	return services
}

func backendObject(info *swarmv1.NetworkInfo, r *swarmv1.Routing, b *swarmv1.Backend, host *swarmv1.Peering) term.Object {
	addresses := []string{}
	for _, n := range b.GetNetworks() {
		if n.GetNetworkId() == info.GetNetwork().GetId() {
			addresses = append(addresses, n.GetAddresses()...)
		}
	}
	slot := b.GetNodeId() // the slot's part of the task's name on the network
	if b.GetSlot() != 0 {
		slot = fmt.Sprint(b.GetSlot())
	}
	return term.Object{
		{"Name", r.GetName() + "." + slot + "." + b.GetTaskId()},
		{"ID", b.GetTaskId()},
		{"Addresses", addresses},
		{"Node", host.GetHostname()},
		{"HostIP", host.GetAddr()},
		{"Ready", b.GetReady()},
	}
}

// hosts returns the state of the network on each node. Index is the version of the managers' state
// that the node has applied.
func hosts(s *swarmv1.NetworkSurvey) []any {
	out := []any{}
	for _, n := range s.GetNodes() {
		o := term.Object{{"Name", n.GetHostname()}, {"ID", n.GetNodeId()}}
		has := n.GetNetwork()
		switch {
		case n.GetError() != "":
			out = append(out, append(o, term.Member{"State", "does not answer: " + n.GetError()}))
			continue
		case len(n.GetDifferences()) > 0:
			o = append(o, term.Member{"State", "differs"}, term.Member{"Differences", n.GetDifferences()})
		default:
			o = append(o, term.Member{"State", "in step"}, term.Optional("Differences", nil, false))
		}
		o = append(o, term.Member{"Index", has.GetIndex()})
		if has.GetAbsent() {
			out = append(out, o)
			continue
		}
		peers := []any{}
		for _, p := range has.GetPeers() {
			peers = append(peers, term.Object{{"IP", p.GetAddr()}, {"Endpoints", p.GetEndpoints()}})
		}
		o = append(o, term.Member{"VNI", has.GetVni()}, term.Member{"MTU", has.GetMtu()},
			term.Member{"Underlay", net.JoinHostPort(has.GetUnderlay(), fmt.Sprint(has.GetPort()))})
		out = append(out, append(o, term.Optional("Netns", has.GetNetns(), has.GetNetns() != ""), // The ingress network has none of its own.
			term.Member{"Tasks", textList(has.GetTaskIds())}, term.Member{"Peers", peers},
			term.Member{"Received", trafficObject(has.GetReceived())}, term.Member{"Sent", trafficObject(has.GetSent())}))
	}
	return out
}

func trafficObject(t *swarmv1.NetworkTraffic) term.Object {
	return term.Object{{"Bytes", t.GetBytes()}, {"Packets", t.GetPackets()}, {"Dropped", t.GetDropped()}}
}

func textList(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
