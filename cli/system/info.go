package system

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// NewInfo returns the verb `swarm info`.
func NewInfo(deps *command.Deps) *cobra.Command {
	var tmpl string
	c := command.Verb(&cobra.Command{
		Use: "info [OPTIONS]", Short: "Display information about this node and its swarm", Args: usage.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runInfo(c.Context(), deps, tmpl) },
	})
	command.InspectFormatFlag(c, &tmpl)
	return c
}

func runInfo(ctx context.Context, deps *command.Deps, tmpl string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Daemon.Info(ctx, &swarmv1.InfoRequest{})
		if err != nil {
			return err
		}
		if tmpl != "" {
			return term.PrintObject(deps.Out, tmpl, append(term.Object{{"Swarm", swarmObject(r)}}, term.Describe(r)...))
		}
		var networks *swarmv1.NetworkDefaults
		if r.ControlAvailable {
			// Without the cluster, the rest of the information is still printed.
			cluster, _ := c.GetCluster(ctx, &swarmv1.GetRequest{})
			networks = cluster.GetSpec().GetNetwork()
		}
		writeInfo(deps.Out, r, networks)
		return nil
	})
}

// swarmObject returns the part of the information that Docker has below .Swarm, where scripts look
// for it.
func swarmObject(r *swarmv1.InfoResponse) term.Object {
	return term.Object{
		{"NodeID", r.NodeId},
		{"NodeAddr", r.NodeAddr},
		{"LocalNodeState", r.LocalNodeState},
		{"ControlAvailable", r.ControlAvailable},
		{"Error", r.Error},
		{"Nodes", r.Nodes},
		{"Managers", r.Managers},
		{"Cluster", term.Object{{"ID", r.ClusterId}}},
	}
}

func writeInfo(w io.Writer, r *swarmv1.InfoResponse, networks *swarmv1.NetworkDefaults) {
	line := func(key string, value any) { term.Printf(w, "%s: %v\n", key, value) }
	line("Swarm", r.LocalNodeState)
	if r.Error != "" {
		line(" Error", r.Error)
	}
	if r.NodeId != "" {
		line(" NodeID", r.NodeId)
		line(" Node Address", r.NodeAddr)
		line(" Role", term.EnumWord(r.Role))
		line(" Is Manager", r.ControlAvailable)
		line(" ClusterID", r.ClusterId)
	}
	if r.ControlAvailable {
		line(" Leader", r.LeaderId)
		line(" Managers", r.Managers)
		line(" Nodes", r.Nodes)
	}
	if networks != nil {
		line(" Default Address Pool", strings.Join(networks.DefaultAddrPool, "  "))
		line(" SubnetSize", networks.SubnetSize)
		line(" Data Path Port", networks.DataPathPort)
	}
	if len(r.Members) > 0 {
		term.Printf(w, " Gossip: %d members, health score %d\n", len(r.Members), r.GossipHealth)
		for _, m := range r.Members {
			term.Printf(w, "  %s %s %s\n", m.NodeId, m.Addr, m.Status)
		}
	}
	line("Tasks", r.Tasks)
	if v := r.Version; v != nil {
		line("Server Version", v.Version)
		line("containerd", v.Containerd)
		line("runc", v.Runc)
		line("seccomp", seccompWord(v))
	}
	if d := r.Description; d != nil {
		line("Name", d.Hostname)
		line("Kernel Version", d.GetEngine().GetKernelVersion())
		line("Architecture", d.GetPlatform().GetArchitecture())
		line("CPUs", float64(d.GetResources().GetNanoCpus())/1e9)
		line("Total Memory", units.BytesSize(float64(d.GetResources().GetMemoryBytes())))
		if d.Unavailable != "" {
			line("Unavailable", d.Unavailable)
		}
	}
	line("State Folder", r.StateDir)
	line("Run Folder", r.RunDir)
	line("containerd Address", r.ContainerdAddress)
	if r.CgroupDriver != "" {
		line("Cgroup Driver", r.CgroupDriver)
		line("Cgroup Version", r.CgroupVersion)
	}
	if r.Uptime != nil {
		line("Up", units.HumanDuration(r.Uptime.AsDuration()))
	}
	if len(r.HostChanges) > 0 {
		fmt.Fprintln(w, "Changes to this host:")
		for _, c := range r.HostChanges {
			term.Printf(w, " %s\n", c)
		}
	}
}

// NewVersion returns the verb `swarm version`.
func NewVersion(deps *command.Deps, own *swarmv1.VersionInfo) *cobra.Command {
	var tmpl string
	c := command.Verb(&cobra.Command{
		Use: "version [OPTIONS]", Short: "Show the version of this program and of the daemon", Args: usage.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runVersion(c.Context(), deps, own, tmpl) },
	})
	command.InspectFormatFlag(c, &tmpl)
	return c
}

// runVersion prints the versions of this program and of the daemon. If no daemon answers, it prints
// only its own version and returns nil.
func runVersion(ctx context.Context, deps *command.Deps, own *swarmv1.VersionInfo, tmpl string) error {
	var server *swarmv1.VersionInfo
	err := deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Daemon.Info(ctx, &swarmv1.InfoRequest{})
		server = r.GetVersion()
		return err
	})
	if tmpl != "" {
		both := term.Object{{"Client", term.Describe(own)}}.With("Server", server)
		return term.PrintObject(deps.Out, tmpl, both)
	}
	tw := tabwriter.NewWriter(deps.Out, 0, 1, 2, ' ', 0)
	writeVersion(tw, "Client", own)
	if server != nil {
		writeVersion(tw, "Server", server)
	}
	if flushErr := tw.Flush(); flushErr != nil {
		return flushErr
	}
	if err != nil {
		term.Printf(deps.Err, "%s\n", term.ErrorLine(err))
	}
	return nil
}

func writeVersion(w io.Writer, name string, v *swarmv1.VersionInfo) {
	term.Printf(w, "%s:\n", name)
	line := func(key, value string) {
		if value != "" {
			term.Printf(w, " %s:\t%s\n", key, value)
		}
	}
	line("Version", v.GetVersion())
	line("Go version", v.GetGoVersion())
	line("Git commit", v.GetRevision())
	line("Build", v.GetBuild())
	if v.GetOs() != "" {
		line("OS/Arch", v.GetOs()+"/"+v.GetArch())
	}
	line("containerd", v.GetContainerd())
	line("runc", v.GetRunc())
	if v.GetRunc() != "" {
		line("seccomp", seccompWord(v))
	}
}

// seccompWord returns "true", or "false" with an explanation.
func seccompWord(v *swarmv1.VersionInfo) string {
	if missing := term.WithoutProfiles(v); missing != "" {
		return "false (" + missing + ")"
	}
	return fmt.Sprint(v.GetSeccomp())
}
