package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `network ls --filter` takes.
var filters = []string{"id", "name", "label", "driver", "scope", "type", "dangling"}

// pruneFilters are the keys that `network prune --filter` takes.
var pruneFilters = []string{"label", "until"}

// New returns the group of commands `swarm network`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "network", Short: "Manage networks"},
		newCreate(deps), newInspect(deps), newLs(deps), newPrune(deps), newRm(deps))
}

type createOptions struct {
	name                                            string
	driver, ipamDriver, scope                       string
	subnets, ranges, gateways                       flag.List
	labels, options                                 flag.List
	internal, attachable, ipv6, ingress, hostAccess bool
}

func newCreate(deps *command.Deps) *cobra.Command {
	o := createOptions{
		subnets: flag.List{Kind: "strings"}, ranges: flag.List{Kind: "strings"}, gateways: flag.List{Kind: "strings"},
		labels: flag.List{Kind: "list"}, options: flag.List{Kind: "map"},
	}
	c := command.Verb(&cobra.Command{
		Use: "create [OPTIONS] NETWORK", Short: "Create a network", Args: usage.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runCreate(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.StringVarP(&o.driver, "driver", "d", "overlay", "Driver to manage the network")
	f.Var(&o.subnets, "subnet", "Subnet in CIDR format that represents a network segment")
	f.Var(&o.gateways, "gateway", "IPv4 or IPv6 gateway for the subnet: an address that no task gets")
	f.Var(&o.ranges, "ip-range", "Allocate container ip from a sub-range")
	f.Var(&o.labels, "label", "Set metadata on a network")
	f.VarP(&o.options, "opt", "o", "Set driver specific options")
	f.BoolVar(&o.internal, "internal", false, "Restrict external access to the network")
	f.BoolVar(&o.hostAccess, "host-access", false, "Let containers reach the cluster's own ports (2377, 7946) on its nodes")
	f.BoolVar(&o.attachable, "attachable", false, "Enable manual container attachment")
	f.BoolVar(&o.ipv6, "ipv6", false, "Enable IPv6 networking")
	f.BoolVar(&o.ingress, "ingress", false, "Create swarm routing-mesh network (the swarm makes it by itself)")
	f.StringVar(&o.scope, "scope", "swarm", "Control the network's scope")
	f.StringVar(&o.ipamDriver, "ipam-driver", "default", "IP Address Management Driver")
	return c
}

// spec returns the network that the options describe.
func (o createOptions) spec() (*swarmv1.NetworkSpec, error) {
	if o.scope != "swarm" && o.scope != "global" {
		return nil, usage.Invalidf("scope %q is not known: networks are of the whole swarm; leave --scope out", o.scope)
	}
	s := &swarmv1.NetworkSpec{
		Name: o.name, Labels: flag.AddPairs(nil, o.labels.Values), Internal: o.internal, Attachable: o.attachable, Ingress: o.ingress, Ipv6Enabled: o.ipv6,
		HostAccess:   o.hostAccess,
		DriverConfig: &swarmv1.Driver{Name: o.driver, Options: flag.AddPairs(nil, o.options.Values)},
	}
	var configs []*swarmv1.IPAMConfig
	for _, text := range o.subnets.Values {
		configs = append(configs, &swarmv1.IPAMConfig{Subnet: text})
	}
	for _, g := range o.gateways.Values {
		a, err := netip.ParseAddr(g)
		if err != nil {
			return nil, usage.Invalidf("gateway %q is not an IP address", g)
		}
		c := subnetWith(configs, a)
		if c == nil {
			return nil, usage.Invalidf("no subnet has gateway %s in it: name the subnet with --subnet", g)
		}
		c.Gateway = g
	}
	for _, r := range o.ranges.Values {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, usage.Invalidf("IP range %q is not in CIDR format: write it like 10.1.0.0/28", r)
		}
		c := subnetWith(configs, p.Addr())
		if c == nil {
			return nil, usage.Invalidf("no subnet has IP range %s in it: name the subnet with --subnet", r)
		}
		c.Range = r
	}
	if len(configs) > 0 || o.ipamDriver != "default" {
		s.Ipam = &swarmv1.IPAMOptions{Driver: &swarmv1.Driver{Name: o.ipamDriver}, Configs: configs}
	}
	return spec.Network(s)
}

func subnetWith(configs []*swarmv1.IPAMConfig, a netip.Addr) *swarmv1.IPAMConfig {
	for _, c := range configs {
		if p, err := netip.ParsePrefix(c.GetSubnet()); err == nil && p.Contains(a) {
			return c
		}
	}
	return nil
}

func runCreate(ctx context.Context, deps *command.Deps, o createOptions) error {
	s, err := o.spec()
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		n, err := c.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: s})
		if err != nil {
			return err
		}
		deps.Warn(n.GetWarnings())
		term.Printf(deps.Out, "%s\n", n.GetNetwork().GetId())
		return nil
	})
}

type lsOptions struct {
	command.ListOptions
	noTrunc bool
}

func newLs(deps *command.Deps) *cobra.Command {
	var o lsOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List networks", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o.ListOptions, "Only display network IDs", filters)
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate the output")
	return c
}

var listing = term.Table{
	Columns: []term.Column{{"ID", "NETWORK ID"}, {"Name", "NAME"}, {"Driver", "DRIVER"}, {"Scope", "SCOPE"}},
	More: []term.Column{
		{"IPv6", "IPV6"},
		{"Internal", "INTERNAL"},
		{"Labels", "LABELS"},
		{"CreatedAt", "CREATED AT"},
		{"Subnets", "SUBNETS"},
		{"Used", "USED"},
		{"VNI", "VNI"},
	},
}

func runLs(ctx context.Context, deps *command.Deps, o lsOptions) error {
	filter, rest, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	for i, value := range rest["dangling"] {
		dangling, err := strconv.ParseBool(value)
		if err != nil {
			return usage.Invalidf("filter dangling=%s: use true or false", value)
		}
		rest["dangling"][i] = strconv.FormatBool(dangling)
	}
	for _, value := range rest["type"] {
		if value != "custom" && value != "builtin" {
			return usage.Invalidf("filter type=%s: use custom or builtin", value)
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListNetworks(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		var used map[string]bool
		if len(rest["dangling"]) > 0 {
			if used, err = usedNetworks(ctx, c); err != nil {
				return err
			}
		}
		var rows []term.Row
		for _, n := range r.Networks {
			if fits(n.GetNetwork(), used[n.GetNetwork().GetId()], rest) {
				rows = append(rows, row(n, o.noTrunc))
			}
		}
		return deps.PrintTable(listing, o.Format, rows)
	})
}

// usedNetworks returns the ids of the networks to which services are attached.
func usedNetworks(ctx context.Context, c command.Client) (map[string]bool, error) {
	r, err := c.ListServices(ctx, &swarmv1.ListRequest{})
	used := map[string]bool{}
	for _, s := range r.GetServices() {
		for _, n := range s.GetRevision().GetSpec().GetTaskTemplate().GetNetworks() {
			used[n.GetTarget()] = true
		}
	}
	return used, err
}

func fits(n *swarmv1.Network, used bool, want map[string][]string) bool {
	kind := "builtin"
	if complete.IsCustom(n) {
		kind = "custom"
	}
	for key, value := range map[string]string{
		"driver": n.GetSpec().GetDriverConfig().GetName(), "scope": scope(n), "type": kind, "dangling": strconv.FormatBool(kind == "custom" && !used),
	} {
		if len(want[key]) > 0 && !slices.Contains(want[key], value) {
			return false
		}
	}
	return true
}

func scope(n *swarmv1.Network) string {
	if spec.IsLocalNetwork(n.GetId()) {
		return "local"
	}
	return "swarm"
}

func row(info *swarmv1.NetworkInfo, noTrunc bool) term.Row {
	n := info.GetNetwork()
	id := n.GetId()
	if !noTrunc {
		id = term.ShortID(id)
	}
	var subnets, used []string
	for _, u := range info.GetUse() {
		subnets = append(subnets, u.GetSubnet())
		used = append(used, useText(u))
	}
	vni := ""
	if n.GetVni() != 0 {
		vni = strconv.FormatUint(uint64(n.GetVni()), 10)
	}
	return term.Row{
		"ID": id, "Name": n.GetSpec().GetName(), "Driver": n.GetSpec().GetDriverConfig().GetName(), "Scope": scope(n),
		"IPv6": strconv.FormatBool(n.GetSpec().GetIpv6Enabled()), "Internal": strconv.FormatBool(n.GetSpec().GetInternal()),
		"Labels": term.JoinPairs(n.GetSpec().GetLabels()), "CreatedAt": term.Stamp(n.GetMeta().GetCreatedAt()),
		"Subnets": strings.Join(subnets, ", "), "Used": strings.Join(used, ", "), "VNI": vni,
	}
}

func useText(u *swarmv1.AddressUse) string {
	return strconv.FormatUint(u.GetUsed(), 10) + "/" + strconv.FormatUint(u.GetTotal(), 10)
}

func newRm(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "rm NETWORK [NETWORK...]", Aliases: []string{"remove"}, Short: "Remove one or more networks", Args: usage.MinArgs(1),
		ValidArgsFunction: complete.Networks(deps, complete.IsCustom),
		RunE:              func(c *cobra.Command, args []string) error { return runRm(c.Context(), deps, force, args) },
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return c
}

// runRm removes networks. With force, a network that does not exist is no error.
func runRm(ctx context.Context, deps *command.Deps, force bool, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			stopExplaining := deps.ExplainDelay(ctx, func(ctx context.Context) string { return whyHeld(ctx, c, ref) })
			_, err := c.RemoveNetwork(ctx, &swarmv1.GetRequest{Id: ref})
			stopExplaining()
			if err == nil {
				term.Printf(deps.Out, "%s\n", ref)
			} else if force && command.IsNotFound(err) {
				return nil
			}
			return err
		})
	})
}

// whyHeld returns a sentence about the services that are being removed and still use the network.
// It returns "" if there are none.
func whyHeld(ctx context.Context, c command.Client, ref string) string {
	n, err := c.GetNetwork(ctx, &swarmv1.GetRequest{Id: ref})
	if err != nil {
		return ""
	}
	services, err := c.ListServices(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return ""
	}
	var names []string
	for _, s := range services.GetServices() {
		on := slices.ContainsFunc(s.GetRevision().GetSpec().GetTaskTemplate().GetNetworks(), func(use *swarmv1.NetworkAttachmentConfig) bool {
			return use.GetTarget() == n.GetNetwork().GetId()
		})
		if s.GetService().GetPendingDelete() && on {
			names = append(names, s.GetService().GetName())
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("network %s is in use by services that are being removed, %s: waiting until their tasks have stopped", ref, strings.Join(names, ", "))
}

type pruneOptions struct {
	force   bool
	filters []string
}

func newPrune(deps *command.Deps) *cobra.Command {
	var o pruneOptions
	c := command.Verb(&cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove all unused networks", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runPrune(c.Context(), deps, o) },
	})
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	c.Flags().Var(&flag.Filter{Values: &o.filters, Keys: pruneFilters}, "filter", `Provide filter values (e.g. "until=24h", "label=KEY=VALUE")`)
	return c
}

// runPrune removes the networks that no service uses, after the user has confirmed.
func runPrune(ctx context.Context, deps *command.Deps, o pruneOptions) error {
	filter, rest, err := flag.ParseFilters(o.filters, pruneFilters...)
	if err != nil {
		return err
	}
	if !o.force {
		fmt.Fprintln(deps.Err, "WARNING! This will remove all networks not used by at least one service.")
		if !deps.Confirm() {
			return nil
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		if filter.Ids, err = networksUntil(ctx, deps, c, rest["until"]); err != nil {
			return err
		}
		if len(rest["until"]) > 0 && len(filter.Ids) == 0 {
			return nil
		}
		r, err := c.PruneNetworks(ctx, &swarmv1.PruneNetworksRequest{Filter: filter})
		if err != nil {
			return err
		}
		if len(r.Removed) > 0 {
			term.PrintList(deps.Out, "Deleted Networks:\n", r.Removed)
		}
		return nil
	})
}

// networksUntil returns the ids of the networks that were created before all of the times. It
// returns nil if there are no times.
func networksUntil(ctx context.Context, deps *command.Deps, c command.Client, times []string) ([]string, error) {
	if len(times) == 0 {
		return nil, nil
	}
	r, err := c.ListNetworks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	networks := r.Networks
	for _, text := range times {
		until, err := flag.ParseTime("filter until", text, deps.Now())
		if err != nil {
			return nil, err
		}
		networks = slices.DeleteFunc(networks, func(n *swarmv1.NetworkInfo) bool {
			return !n.GetNetwork().GetMeta().GetCreatedAt().AsTime().Before(until.AsTime())
		})
	}
	ids := make([]string, len(networks))
	for i, n := range networks {
		ids[i] = n.GetNetwork().GetId()
	}
	return ids, nil
}
