package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

type updateOptions struct {
	certExpiry    time.Duration
	revisionLimit uint64
	historyLimit  int64
	logDriver     string
	logOpts       flag.List
	// given reports whether the user gave a flag.
	given func(flag string) bool
}

// NewUpdate returns the verb `swarm update`.
func NewUpdate(deps *command.Deps) *cobra.Command {
	o := updateOptions{logOpts: flag.List{Kind: "list", Check: flag.CheckKeyValue}}
	c := command.Verb(&cobra.Command{
		Use: "update [OPTIONS]", Short: "Update the swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().NFlag() == 0 {
				return usage.Errorf(c, "name what to update, such as --task-history-limit 10")
			}
			o.given = c.Flags().Changed
			if o.given("revision-history-limit") && o.revisionLimit == 0 {
				return usage.Invalidf("--revision-history-limit 0 is out of range: use 1 to 1000")
			}
			return runUpdate(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.DurationVar(&o.certExpiry, "cert-expiry", 0, "Validity period for node certificates (ns|us|ms|s|m|h)")
	f.Int64Var(&o.historyLimit, "task-history-limit", 0, "Task history retention limit")
	f.Uint64Var(&o.revisionLimit, "revision-history-limit", 0, "How many revisions of each service stay besides those in use (1 to 1000, default 100)")
	f.StringVar(&o.logDriver, "log-driver", "", `Logging driver for new tasks of services that name none ("local", "none")`)
	f.Var(&o.logOpts, "log-opt", "Logging driver options for the same")
	complete.Choices(c, "log-driver", flag.LogDrivers)
	return c
}

func orchestrationOf(s *swarmv1.ClusterSpec) *swarmv1.OrchestrationConfig {
	if s.Orchestration == nil {
		s.Orchestration = &swarmv1.OrchestrationConfig{}
	}
	return s.Orchestration
}

// apply changes a specification as the flags say.
func (o updateOptions) apply(s *swarmv1.ClusterSpec) {
	if o.given("cert-expiry") {
		s.CaConfig = &swarmv1.CAConfig{NodeCertExpiry: durationpb.New(o.certExpiry)}
	}
	if o.given("task-history-limit") {
		orchestrationOf(s).TaskHistoryRetentionLimit = o.historyLimit
	}
	if o.given("revision-history-limit") {
		orchestrationOf(s).RevisionHistoryLimit = o.revisionLimit
	}
	if !o.given("log-driver") && !o.given("log-opt") {
		return
	}
	d := &swarmv1.Driver{Name: s.GetTaskDefaults().GetLogDriver().GetName()}
	if o.given("log-driver") {
		d.Name = o.logDriver
	}
	if o.given("log-opt") {
		d.Options = flag.AddPairs(nil, o.logOpts.Values)
	}
	s.TaskDefaults = &swarmv1.TaskDefaults{LogDriver: d}
}

func runUpdate(ctx context.Context, deps *command.Deps, o updateOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		cluster, err := c.GetCluster(ctx, &swarmv1.GetRequest{})
		if err != nil {
			return err
		}
		wanted := cluster.GetSpec().CloneVT()
		if wanted == nil {
			wanted = &swarmv1.ClusterSpec{}
		}
		o.apply(wanted)
		if _, err := spec.Cluster(wanted); err != nil {
			return err
		}
		if _, err := c.UpdateCluster(ctx, &swarmv1.UpdateClusterRequest{Version: cluster.GetMeta().GetVersion(), Spec: wanted}); err != nil {
			return err
		}
		fmt.Fprintln(deps.Out, "Swarm updated.")
		return nil
	})
}
