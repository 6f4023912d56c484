package cli

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	swarmv1 "swarm/proto/swarm/v1"
)

func (a *app) newNetworkInspect() *cobra.Command {
	var verbose bool
	c := a.newInspect(inspection{
		use: "inspect [OPTIONS] NETWORK [NETWORK...]", short: "Display detailed information on one or more networks", complete: a.completeNetworks(isAnyNetwork),
		object: func(ctx context.Context, c client, ref string) (object, error) {
			return inspectedNetwork(ctx, c, ref, verbose)
		},
	})
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "Verbose output for diagnostics: services, tasks and hosts on the network")
	return c
}

func inspectedNetwork(ctx context.Context, c client, ref string, verbose bool) (object, error) {
	n, err := c.GetNetwork(ctx, &swarmv1.GetRequest{Id: ref})
	if err != nil {
		return nil, err
	}
	o := networkObject(n, verbose)
	if !verbose || n.GetNetwork().GetVni() == 0 {
		return o, nil
	}
	s, err := c.SurveyNetwork(ctx, &swarmv1.GetRequest{Id: n.GetNetwork().GetId()})
	return append(o, member{"Hosts", networkHosts(s)}), err
}

// networkObject is a network in Docker's shape, with the use of its subnets; verbose: and with what is on it.
func networkObject(info *swarmv1.NetworkInfo, verbose bool) object {
	n := info.GetNetwork()
	s := n.GetSpec()
	configs := []any{}
	for _, c := range n.GetIpam().GetConfigs() {
		config := object{{"Subnet", c.GetSubnet()}}
		config = append(config, optional("IPRange", c.GetRange(), c.GetRange() != ""), member{"Gateway", c.GetGateway()})
		for _, u := range info.GetUse() {
			if u.GetSubnet() == c.GetSubnet() {
				config = append(config, member{"Used", u.GetUsed()}, member{"Total", u.GetTotal()}, member{"Exhausted", u.GetUsed() >= u.GetTotal()})
			}
		}
		configs = append(configs, config)
	}
	o := object{
		{"Name", s.GetName()},
		{"Id", n.GetId()},
		{"Created", stamp(n.GetMeta().GetCreatedAt())},
		{"Scope", networkScope(n)},
		{"Driver", s.GetDriverConfig().GetName()},
		{"EnableIPv6", s.GetIpv6Enabled()},
		{"IPAM", object{{"Driver", "default"}, {"Config", configs}}},
		{"Internal", s.GetInternal()},
		{"HostAccess", s.GetHostAccess()},
		{"Attachable", s.GetAttachable()},
		{"Ingress", s.GetIngress()},
		{"VNI", n.GetVni()},
		{"Version", n.GetMeta().GetVersion()},
		{"Options", pairsObject(s.GetDriverConfig().GetOptions())},
		{"Labels", pairsObject(s.GetLabels())},
	}
	peers := []any{}
	for _, p := range info.GetPeers() {
		peer := object{{"Name", p.GetHostname()}, {"ID", p.GetNodeId()}, {"IP", p.GetAddr()}}
		peers = append(peers, append(peer, optional("Addresses", p.GetMeshAddresses(), len(p.GetMeshAddresses()) > 0)))
	}
	return append(o, member{"Peers", peers}, optional("Services", networkServices(info), verbose))
}

func pairsObject(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// networkServices are the services on the network by name, each with its tasks there.
func networkServices(info *swarmv1.NetworkInfo) object {
	hosts := map[string]*swarmv1.Peering{}
	for _, p := range info.GetPeers() {
		hosts[p.GetNodeId()] = p
	}
	services := object{}
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
		services = append(services, member{r.GetName(), object{
			{"ID", r.GetServiceId()}, {"VIPs", vips}, {"Ports", portList(r.GetEndpoint().GetPorts())}, {"Tasks", tasks},
		}})
	}
	return services
}

func backendObject(info *swarmv1.NetworkInfo, r *swarmv1.Routing, b *swarmv1.Backend, host *swarmv1.Peering) object {
	addresses := []string{}
	for _, n := range b.GetNetworks() {
		if n.GetNetworkId() == info.GetNetwork().GetId() {
			addresses = append(addresses, n.GetAddresses()...)
		}
	}
	slot := b.GetNodeId() // As the task is called in the network.
	if b.GetSlot() != 0 {
		slot = fmt.Sprint(b.GetSlot())
	}
	return object{
		{"Name", r.GetName() + "." + slot + "." + b.GetTaskId()},
		{"ID", b.GetTaskId()},
		{"Addresses", addresses},
		{"Node", host.GetHostname()},
		{"HostIP", host.GetAddr()},
		{"Ready", b.GetReady()},
	}
}

// networkHosts is what each node has of the network. Index is the state of the managers that the node has acted on.
func networkHosts(s *swarmv1.NetworkSurvey) []any {
	out := []any{}
	for _, n := range s.GetNodes() {
		o := object{{"Name", n.GetHostname()}, {"ID", n.GetNodeId()}}
		has := n.GetNetwork()
		switch {
		case n.GetError() != "":
			out = append(out, append(o, member{"State", "does not answer: " + n.GetError()}))
			continue
		case len(n.GetDifferences()) > 0:
			o = append(o, member{"State", "differs"}, member{"Differences", n.GetDifferences()})
		default:
			o = append(o, member{"State", "in step"}, optional("Differences", nil, false))
		}
		o = append(o, member{"Index", has.GetIndex()})
		if has.GetAbsent() {
			out = append(out, o)
			continue
		}
		peers := []any{}
		for _, p := range has.GetPeers() {
			peers = append(peers, object{{"IP", p.GetAddr()}, {"Endpoints", p.GetEndpoints()}})
		}
		o = append(o, member{"VNI", has.GetVni()}, member{"MTU", has.GetMtu()},
			member{"Underlay", net.JoinHostPort(has.GetUnderlay(), fmt.Sprint(has.GetPort()))})
		out = append(out, append(o, optional("Netns", has.GetNetns(), has.GetNetns() != ""), // Network ingress is in the host's own.
			member{"Tasks", textList(has.GetTaskIds())}, member{"Peers", peers},
			member{"Received", trafficObject(has.GetReceived())}, member{"Sent", trafficObject(has.GetSent())}))
	}
	return out
}

func trafficObject(t *swarmv1.NetworkTraffic) object {
	return object{{"Bytes", t.GetBytes()}, {"Packets", t.GetPackets()}, {"Dropped", t.GetDropped()}}
}

func textList(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
