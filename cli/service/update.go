package service

import (
	"context"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/converge"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// updateOptions are the flags and arguments of `service update`.
type updateOptions struct {
	ref      string
	flags    *flags
	lists    *lists
	removals removals
	image    string
	args     flag.Words
	force    bool
	rollback bool
}

func newUpdate(deps *command.Deps) *cobra.Command {
	o := updateOptions{flags: newFlags(), lists: newLists(), removals: removals{}}
	c := command.Verb(&cobra.Command{
		Use: "update [OPTIONS] SERVICE", Short: "Update a service", Args: usage.ExactArgs(1), ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return runUpdate(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	o.flags.register(c, false)
	o.lists.registerUpdate(f)
	o.removals.register(f)
	f.StringVar(&o.image, "image", "", "Service image tag")
	f.Var(&o.args, "args", "Service command args")
	f.BoolVar(&o.force, "force", false, "Force update even if no changes require it")
	f.BoolVar(&o.rollback, "rollback", false, "Rollback to previous specification")
	return c
}

// applyTo changes a specification as the options say: first the flags with one value, the image and
// the arguments, then the removals from lists, then the additions to lists. It calls warn with the
// removals that removed nothing.
func (o updateOptions) applyTo(s *swarmv1.ServiceSpec, getenv func(string) string, warn func([]string)) error {
	if err := o.flags.apply(s); err != nil {
		return err
	}
	t := s.TaskTemplate
	if o.image != "" {
		if err := flag.CheckImage(o.image); err != nil {
			return err
		}
		t.ContainerSpec.Image = o.image
	}
	if o.args.Given {
		t.ContainerSpec.Args = o.args.Values
	}
	if o.force {
		t.ForceUpdate++
	}
	idle, err := o.removals.takeFrom(s)
	if err != nil {
		return err
	}
	warn(idle)
	env, err := flag.Environment(o.lists.env.Values, nil, getenv)
	if err != nil {
		return err
	}
	for _, e := range env {
		t.ContainerSpec.Env = flag.ReplaceEnv(t.ContainerSpec.Env, e)
	}
	if err := o.lists.addTo(s); err != nil {
		return err
	}
	return flag.CheckPorts(s.GetEndpointSpec().GetPorts())
}

func runUpdate(ctx context.Context, deps *command.Deps, o updateOptions) error {
	if o.rollback {
		if other := o.otherFlag(); other != "" {
			return usage.Invalidf("--%s may not be combined with --rollback: roll back first, then update", other)
		}
	}
	if o.image != "" {
		if err := flag.CheckImage(o.image); err != nil {
			return err
		}
	}
	var once sync.Once
	e := edit{
		apply: func(s *swarmv1.ServiceSpec) error {
			return o.applyTo(s, deps.Env, func(idle []string) {
				once.Do(func() { deps.Warn(idle) }) // The edit is repeated if another write came first.
			})
		},
		// Users name networks by name; the specification has their ids.
		byName:   len(o.lists.networks.Values)+len(o.removals["network-rm"].Values) > 0,
		rollback: o.rollback, message: o.flags.message, withAuth: o.flags.withAuth, noResolve: o.flags.noResolve, newImage: o.image != "" || o.flags.withAuth,
	}
	return updateAndWait(ctx, deps, o.ref, e, o.flags.detach, o.flags.quiet)
}

// otherFlag returns the name of a flag that the user gave beside --rollback and that goes with an
// update only. It returns "" if there is none.
func (o updateOptions) otherFlag() (name string) {
	o.flags.set.Visit(func(f *pflag.Flag) {
		if name == "" && !slices.Contains([]string{"rollback", "detach", "quiet", "message"}, f.Name) {
			name = f.Name
		}
	})
	return name
}

// edit is a change of the specification of a service. It is one of three: a rollback if rollback is
// set, a return to an earlier revision if toRevision is set, or else what the function apply does.
type edit struct {
	// apply changes a copy of the current specification. byName reports whether apply needs the
	// names of networks instead of their ids.
	apply  func(*swarmv1.ServiceSpec) error
	byName bool
	// rollback asks the managers to return to the previous revision.
	rollback bool
	// toRevision is the number of an earlier revision, whose specification becomes that of a new
	// revision. (Managers can go back only to the previous revision.)
	toRevision          uint64
	newImage            bool   // the user gave --image or --with-registry-auth
	message             string // why, for the history
	withAuth, noResolve bool
}

func updateAndWait(ctx context.Context, deps *command.Deps, ref string, e edit, detach, quiet bool) error {
	return deps.Connect(ctx, func(c command.Client) error {
		change, err := writeEdit(ctx, deps, c, ref, e)
		if err != nil {
			return err
		}
		term.Printf(deps.Out, "%s\n", ref)
		if detach {
			return nil
		}
		return converge.Wait(ctx, deps, c, change, quiet)
	})
}

// writeEdit sends the edit of a service to a manager, and returns the change to wait for. If
// another write came first, writeEdit reads the service again and repeats the edit.
func writeEdit(ctx context.Context, deps *command.Deps, c command.Client, ref string, e edit) (converge.Change, error) {
	for try := 0; ; try++ {
		s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: ref})
		if err != nil {
			return converge.Change{}, err
		}
		req, err := updateRequest(ctx, deps, c, ref, s, e)
		if err != nil {
			return converge.Change{}, err
		}
		r, err := c.UpdateService(ctx, req)
		if command.IsStale(err) && try < command.StaleRetries {
			continue
		}
		if err != nil {
			return converge.Change{}, err
		}
		deps.Warn(r.Warnings)
		return converge.Change{ServiceID: s.Service.Id, Revision: r.Revision, Index: r.Index}, nil
	}
}

// updateRequest returns the request that makes the edit of service s. ref is the user's reference
// to the service.
func updateRequest(ctx context.Context, deps *command.Deps, c command.Client, ref string, s *swarmv1.ServiceInfo, e edit) (*swarmv1.UpdateServiceRequest, error) {
	req := &swarmv1.UpdateServiceRequest{
		Id: s.Service.Id, Version: s.Service.GetMeta().GetVersion(), NoResolveImage: e.noResolve, Rollback: e.rollback, Message: e.message,
	}
	switch {
	case e.rollback:
		if s.Service.PreviousRevision == 0 {
			return nil, usage.Invalidf("service %s has no previous specification: there is nothing to roll back to", ref)
		}
		return req, nil
	case e.toRevision != 0:
		rev, err := wantRevision(ctx, c, s, e.toRevision)
		switch {
		case err != nil:
			return nil, err
		case rev.GetNumber() == s.Service.GetRevision():
			return nil, usage.Invalidf("revision %d is the current one of service %s: there is nothing to roll back", e.toRevision, ref)
		}
		req.Spec, req.NoResolveImage = rev.GetSpec(), true // The image is the one that ran then.
		return req, nil
	}
	req.Spec = s.GetRevision().GetSpec().CloneVT()
	if e.byName {
		if err := nameNetworks(ctx, c, req.Spec); err != nil {
			return nil, err
		}
	}
	if err := e.apply(req.Spec); err != nil {
		return nil, err
	}
	if _, err := spec.Service(req.Spec); err != nil {
		return nil, err
	}
	if e.newImage {
		var err error
		if req.RegistryAuth, err = imageAuth(ctx, deps, req.Spec, e.withAuth); err != nil {
			return nil, err
		}
	}
	return req, nil
}

func newRollback(deps *command.Deps) *cobra.Command {
	var detach, quiet bool
	var to uint64
	var message string
	c := command.Verb(&cobra.Command{
		Use: "rollback [OPTIONS] SERVICE", Short: "Revert changes to a service's configuration", Args: usage.ExactArgs(1),
		ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("to") && to == 0 {
				return usage.Invalidf("--to 0 is no revision: they are numbered from 1; list them with `swarm service history %s`", args[0])
			}
			return updateAndWait(c.Context(), deps, args[0], edit{rollback: to == 0, toRevision: to, message: message}, detach, quiet)
		},
	})
	c.Flags().Uint64Var(&to, "to", 0, "Update to the specification of this revision (default: return to the previous one)")
	c.Flags().BoolVarP(&detach, "detach", "d", false, "Exit immediately instead of waiting for the service to converge")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress progress output")
	messageFlag(c.Flags(), &message)
	return c
}

// messageFlag adds the flag --message of a command that changes a service.
func messageFlag(f *pflag.FlagSet, dst *string) {
	f.StringVar(dst, "message", "", "Why, in one line, for the history")
}
