package data

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// lookPause is the pause between two looks at a rollout.
const lookPause = 250 * time.Millisecond

type updateOptions struct {
	source
	name              string
	labelAdd, labelRm flag.List
	detach, dryRun    bool
}

func (n noun) newUpdate() *cobra.Command {
	o := updateOptions{labelAdd: flag.List{Kind: "list"}, labelRm: flag.List{Kind: "list"}}
	c := command.Verb(&cobra.Command{
		Use:   fmt.Sprintf("update [OPTIONS] %s [file|-]", n.arg),
		Short: fmt.Sprintf("Give a %s new data, or change its labels", n.Word),
		Args:  cobra.MatchAll(usage.MinArgs(1), usage.MaxArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			if len(args) == 2 {
				o.file = args[1]
			}
			return n.runUpdate(c, o)
		},
		ValidArgsFunction: n.names,
	})
	f := c.Flags()
	f.Var(&o.labelAdd, "label-add", "Add or change a label")
	f.Var(&o.labelRm, "label-rm", "Remove a label")
	n.addRolloutFlags(c, &o.detach, &o.dryRun)
	if n.Word == "secret" {
		o.source.addFlag(c)
	}
	return c
}

func (n noun) addRolloutFlags(c *cobra.Command, detach, dryRun *bool) {
	c.Flags().BoolVarP(detach, "detach", "d", false, "Exit immediately instead of waiting until the services have the version")
	c.Flags().BoolVar(dryRun, "dry-run", false, "Only show which services the update touches")
}

func (n noun) runUpdate(c *cobra.Command, o updateOptions) error {
	ctx := c.Context()
	labels := len(o.labelAdd.Values)+len(o.labelRm.Values) > 0
	hasData := o.file != "" || c.Flags().Changed("generate")
	var data []byte
	if hasData || !labels {
		var err error
		if data, err = o.required(c, n); err != nil {
			return err
		}
	}
	return n.connect(ctx, func(m methods) error {
		info, err := m.get(ctx, &swarmv1.GetRequest{Id: o.name})
		if err != nil {
			return err
		}
		req := &swarmv1.UpdateDataRequest{Id: info.GetId(), Version: info.GetMeta().GetVersion(), Data: data}
		if hasData {
			if err := n.CheckData(info.GetSpec(), data); err != nil {
				return err
			}
			n.showUses(info, 0)
		}
		if labels {
			req.Spec = info.GetSpec().CloneVT()
			for _, key := range o.labelRm.Values {
				if _, ok := req.Spec.Labels[key]; !ok {
					return usage.Invalidf("label %s: %s %s has no such label", key, n.Word, o.name)
				}
				delete(req.Spec.Labels, key)
			}
			req.Spec.Labels = flag.AddPairs(req.Spec.Labels, o.labelAdd.Values)
		}
		return n.change(c, m, info, req, o.detach, o.dryRun)
	})
}

// change sends an update, and follows the rollout of the version that it made current.
func (n noun) change(c *cobra.Command, m methods, info *swarmv1.DataInfo, req *swarmv1.UpdateDataRequest, detach, dryRun bool) error {
	if dryRun {
		return nil
	}
	next, err := m.update(c.Context(), req)
	if err != nil {
		return err
	}
	name, was, is := next.GetSpec().GetName(), info.GetStatus().GetNumber(), next.GetStatus().GetNumber()
	if len(req.GetData()) > 0 && is == was {
		term.Printf(n.deps.Err, "%s %s has this data already, as version %d\n", n.Word, name, is)
	}
	term.Printf(n.deps.Out, "%s@%d\n", name, is)
	if detach || is == was {
		return nil
	}
	return n.await(c.Context(), m, next)
}

func (n noun) newRollback() *cobra.Command {
	var to uint64
	var detach, dryRun bool
	c := command.Verb(&cobra.Command{
		Use: fmt.Sprintf("rollback [OPTIONS] %s", n.arg), Short: fmt.Sprintf("Make an older version of a %s current again", n.Word), Args: usage.ExactArgs(1),
		ValidArgsFunction: n.names,
		RunE: func(c *cobra.Command, args []string) error {
			return n.connect(c.Context(), func(m methods) error { return n.rollback(c, m, args[0], to, detach, dryRun) })
		},
	})
	c.Flags().Uint64Var(&to, "to", 0, "Number of the version (default: the one before the current one)")
	n.addRolloutFlags(c, &detach, &dryRun)
	return c
}

func (n noun) rollback(c *cobra.Command, m methods, ref string, to uint64, detach, dryRun bool) error {
	ctx := c.Context()
	info, err := m.get(ctx, &swarmv1.GetRequest{Id: ref})
	if err != nil {
		return err
	}
	if to == 0 {
		versions, err := m.versions(ctx, &swarmv1.GetRequest{Id: info.GetId()})
		if err != nil {
			return err
		}
		for _, v := range versions.GetVersions() {
			if v.GetNumber() < info.GetStatus().GetNumber() {
				to = v.GetNumber()
			}
		}
		if to == 0 {
			return usage.Invalidf("%s %s has no version before version %d: see `swarm %s history %s`", n.Word, ref, info.GetStatus().GetNumber(), n.Word, ref)
		}
	}
	n.showUses(info, to)
	return n.change(c, m, info, &swarmv1.UpdateDataRequest{Id: info.GetId(), Version: info.GetMeta().GetVersion(), Number: to}, detach, dryRun)
}
