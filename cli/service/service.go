package service

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/converge"
	"swarm/cli/flag"
	"swarm/cli/logs"
	"swarm/cli/tasktable"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/explain"
	"swarm/internal/ident"
	"swarm/internal/publish"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `service ls --filter` takes.
var filters = []string{"id", "label", "mode", "name"}

// New returns the group of commands `swarm service`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "service", Short: "Manage swarm services"},
		newCreate(deps), newLs(deps), newPs(deps), newInspect(deps), newUpdate(deps),
		newScale(deps), logs.NewService(deps), newRm(deps), newRollback(deps), newHistory(deps), newDiff(deps), newRun(deps), newRuns(deps))
}

func newCreate(deps *command.Deps) *cobra.Command {
	o := createOptions{flags: newFlags(), lists: newLists(), mode: flag.Choice{Value: "replicated", Choices: flag.ServiceModes}}
	c := command.Verb(&cobra.Command{
		Use: "create [OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create a new service", Args: usage.MinArgs(1),
		ValidArgsFunction: complete.Images(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.image, o.args = args[0], args[1:]
			return runCreate(c.Context(), deps, o)
		},
	})
	c.Flags().SetInterspersed(false) // Flags after the image belong to the command.
	o.flags.register(c, true)
	o.lists.registerCreate(c.Flags())
	c.Flags().StringVar(&o.name, "name", "", "Service name")
	c.Flags().Var(&o.mode, "mode", `Service mode ("replicated", "global", "replicated-job", "global-job")`)
	complete.Choices(c, "mode", flag.ServiceModes)
	return c
}

// runCreate checks the specification, sends it, prints the id of the service, and waits until the
// service has converged unless --detach is given.
func runCreate(ctx context.Context, deps *command.Deps, o createOptions) error {
	asked, err := o.spec(deps.Env)
	if err != nil {
		return err
	}
	if asked.Name == "" {
		asked.Name = generatedName(o.image)
	}
	if _, err := spec.Service(asked); err != nil {
		return err
	}
	auth, err := imageAuth(ctx, deps, asked, o.flags.withAuth)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		stopExplaining := explainDelay(ctx, deps, c, asked.Name)
		r, err := c.CreateService(ctx, &swarmv1.CreateServiceRequest{Spec: asked, RegistryAuth: auth, NoResolveImage: o.flags.noResolve, Message: o.flags.message})
		stopExplaining()
		if err != nil {
			return err
		}
		deps.Warn(r.Warnings)
		term.Printf(deps.Out, "%s\n", r.Id)
		if o.flags.detach {
			return nil
		}
		return converge.Wait(ctx, deps, c, converge.Change{ServiceID: r.Id, Index: r.Index}, o.flags.quiet)
	})
}

// explainDelay explains a creation that takes long because a service of the same name is still
// being removed. The caller calls the returned function, stop, when the creation has ended.
func explainDelay(ctx context.Context, deps *command.Deps, c command.Client, name string) (stop func()) {
	return deps.ExplainDelay(ctx, func(ctx context.Context) string {
		if s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: name}); err == nil && s.GetService().GetPendingDelete() {
			return fmt.Sprintf("service %s is still being removed: waiting until its tasks have stopped", name)
		}
		return ""
	})
}

// generatedName returns a name for a service that is made from the name of its image, such as
// "redis-k3x9q". A random name, as Docker chooses, would not show which image runs.
func generatedName(image string) string {
	name := ""
	if ref, err := reference.ParseNormalizedNamed(image); err == nil {
		name = path.Base(reference.Path(ref))
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name[:min(len(name), 40)], "-")
	if name == "" {
		name = "service"
	}
	return name + "-" + ident.NewID()[:5]
}

func newLs(deps *command.Deps) *cobra.Command {
	var o command.ListOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List services", Args: usage.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o, "Only display IDs", filters)
	return c
}

var listing = term.Table{
	Columns: []term.Column{
		{"ID", "ID"},
		{"Name", "NAME"},
		{"Mode", "MODE"},
		{"Replicas", "REPLICAS"},
		{"Image", "IMAGE"},
		{"Ports", "PORTS"},
	},
	More: []term.Column{{"Revision", "REVISION"}, {"UpdateStatus", "UPDATE STATUS"}},
}

func runLs(ctx context.Context, deps *command.Deps, o command.ListOptions) error {
	filter, _, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListServices(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		term.SortBy(r.Services, func(s *swarmv1.ServiceInfo) string { return s.GetService().GetName() })
		rows := make([]term.Row, 0, len(r.Services))
		for _, s := range r.Services {
			rows = append(rows, row(s, o.Format.IsTable()))
		}
		return deps.PrintTable(listing, o.Format, rows)
	})
}

func row(s *swarmv1.ServiceInfo, short bool) term.Row {
	id, asked := s.GetService().GetId(), s.GetRevision().GetSpec()
	if short {
		id = term.ShortID(id)
	}
	ports := s.GetEndpoint().GetPorts()
	if len(ports) == 0 {
		ports = asked.GetEndpointSpec().GetPorts()
	}
	var published []*swarmv1.PortConfig
	for _, p := range ports {
		// A port of mode=host can differ between tasks: `service ps` shows it.
		if publish.ByMesh(p) {
			published = append(published, p)
		}
	}
	held := term.PortList(published)
	if why := s.GetEndpoint().GetUnmet(); why != "" {
		held = strings.TrimSpace(held + " (waits: " + why + ")")
	}
	update := ""
	if u := s.GetService().GetUpdateStatus(); u.GetState() != swarmv1.UpdateStatus_UNKNOWN {
		update = term.UpdateWord(u.GetState())
	}
	return term.Row{
		"ID": id, "Name": s.GetService().GetName(), "Mode": term.ModeWord(asked.GetMode()), "Replicas": replicasWord(s),
		"Image": term.ShortImage(asked.GetTaskTemplate().GetContainerSpec().GetImage()), "Ports": held,
		"Revision": fmt.Sprint(s.GetService().GetRevision()), "UpdateStatus": update,
	}
}

// replicasWord returns "2/3". As in Docker, more words follow for jobs and for a limit of tasks per
// node, and here also for a service that is being removed.
func replicasWord(s *swarmv1.ServiceInfo) string {
	st, asked := s.GetStatus(), s.GetRevision().GetSpec()
	word := fmt.Sprintf("%d/%d", st.GetRunningTasks(), st.GetDesiredTasks())
	if s.GetService().GetPendingDelete() {
		return word + " (removing)"
	}
	if job := asked.GetMode().GetReplicatedJob(); job != nil {
		return fmt.Sprintf("%s (%d/%d completed)", word, st.GetCompletedTasks(), job.TotalCompletions)
	}
	if asked.GetMode().GetGlobalJob() != nil {
		return fmt.Sprintf("%s (%d/%d completed)", word, st.GetCompletedTasks(), st.GetDesiredTasks()+st.GetCompletedTasks())
	}
	if limit := asked.GetTaskTemplate().GetPlacement().GetMaxReplicas(); limit > 0 {
		return fmt.Sprintf("%s (max %d per node)", word, limit)
	}
	return word
}

func newPs(deps *command.Deps) *cobra.Command {
	var o tasktable.Options
	var run uint64
	c := command.Verb(&cobra.Command{
		Use: "ps [OPTIONS] SERVICE [SERVICE...]", Short: "List the tasks of one or more services", Args: usage.MinArgs(1),
		ValidArgsFunction: complete.Services(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runPs(c.Context(), deps, o, run, args) },
	})
	tasktable.RegisterFlags(c, &o, tasktable.Filters)
	c.Flags().Uint64Var(&run, "run", 0, "Show only the tasks of this run of a job, as service runs numbers them")
	return c
}

func runPs(ctx context.Context, deps *command.Deps, o tasktable.Options, run uint64, refs []string) error {
	filter, _, err := flag.ParseFilters(o.Filters, tasktable.Filters...)
	if err != nil {
		return err
	}
	if run != 0 {
		filter.JobIterations = []uint64{run}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		services := map[string]*swarmv1.ServiceInfo{}
		missing := deps.OnEach(refs, func(ref string) error {
			s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: ref})
			if err == nil {
				filter.ServiceIds = append(filter.ServiceIds, s.Service.Id)
				services[s.Service.Id] = s
				if why := s.GetEndpoint().GetUnmet(); why != "" {
					term.Printf(deps.Err, "service %s was rolled back and does not have its former ports and addresses yet: %s\n", s.Service.GetName(), why)
				}
			}
			return err
		})
		if len(filter.ServiceIds) == 0 {
			return missing
		}
		tasks, err := tasktable.Print(ctx, deps, c, o, filter)
		for _, t := range tasks {
			if hint := explain.StartFirstHint(services[t.GetTask().GetServiceId()].GetRevision().GetSpec(), t.GetTask(), t.GetStatus()); hint != "" {
				term.Printf(deps.Err, "the update of service %s waits for what its old tasks hold: %s\n", t.GetServiceName(), hint)
				delete(services, t.GetTask().GetServiceId()) // One line for each service is enough.
			}
		}
		return errors.Join(err, missing)
	})
}

func newScale(deps *command.Deps) *cobra.Command {
	var detach bool
	var message string
	c := command.Verb(&cobra.Command{
		Use: "scale [OPTIONS] SERVICE=REPLICAS [SERVICE=REPLICAS...]", Short: "Scale one or multiple replicated services", Args: usage.MinArgs(1),
		ValidArgsFunction: completeScale(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runScale(c.Context(), deps, detach, message, args) },
	})
	messageFlag(c.Flags(), &message)
	c.Flags().BoolVarP(&detach, "detach", "d", false, "Exit immediately instead of waiting for the service to converge")
	return c
}

// parseScale parses a word SERVICE=REPLICAS.
func parseScale(arg string) (ref string, replicas uint64, err error) {
	ref, count, ok := strings.Cut(arg, "=")
	if !ok || ref == "" {
		return "", 0, usage.Invalidf("invalid scale specifier %q: use SERVICE=REPLICAS", arg)
	}
	replicas, err = strconv.ParseUint(count, 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return "", 0, usage.Invalidf("replicas value %s for %s is out of range: use 0 to %d", count, ref, math.MaxUint32)
	}
	if err != nil {
		return "", 0, usage.Invalidf("invalid replicas value %q for %s: use a whole number, 0 or more", count, ref)
	}
	return ref, replicas, nil
}

func runScale(ctx context.Context, deps *command.Deps, detach bool, message string, args []string) error {
	for _, arg := range args { // No service is scaled if one of the words is wrong.
		if _, _, err := parseScale(arg); err != nil {
			return err
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		var changes []converge.Change
		err := deps.OnEach(args, func(arg string) error {
			ref, n, err := parseScale(arg)
			if err != nil {
				return err
			}
			change, err := writeEdit(ctx, deps, c, ref, edit{message: message, apply: func(s *swarmv1.ServiceSpec) error { return setReplicas(s, n) }})
			if err != nil {
				return err
			}
			term.Printf(deps.Out, "%s scaled to %d\n", ref, n)
			changes = append(changes, change)
			return nil
		})
		if detach {
			return err
		}
		for _, change := range changes {
			if waitErr := converge.Wait(ctx, deps, c, change, false); waitErr != nil {
				return waitErr
			}
		}
		return err
	})
}

// isScalable reports whether services of the mode have a number of replicas.
func isScalable(m *swarmv1.ServiceMode) bool {
	return m.GetReplicated() != nil || m.GetReplicatedJob() != nil
}

// setReplicas sets the number of replicas. It fails if the mode is not scalable.
func setReplicas(s *swarmv1.ServiceSpec, n uint64) error {
	switch m := s.GetMode().GetMode().(type) {
	case *swarmv1.ServiceMode_Replicated:
		m.Replicated.Replicas = n
	case *swarmv1.ServiceMode_ReplicatedJob:
		if n == 0 {
			return usage.Invalidf("service %s is a job, which runs at least one task: use 1 or more, or remove the job", s.GetName())
		}
		m.ReplicatedJob.TotalCompletions = n
	default:
		return usage.Invalidf("service %s is %s: scale can only be used with replicated or replicated-job mode", s.GetName(), term.ModeWord(s.GetMode()))
	}
	return nil
}

func newRm(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "rm SERVICE [SERVICE...]", Aliases: []string{"remove"}, Short: "Remove one or more services", Args: usage.MinArgs(1),
		ValidArgsFunction: complete.Services(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runRm(c.Context(), deps, args) },
	})
}

func runRm(ctx context.Context, deps *command.Deps, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			if _, err := c.RemoveService(ctx, &swarmv1.GetRequest{Id: ref}); err != nil {
				return err
			}
			term.Printf(deps.Out, "%s\n", ref)
			return nil
		})
	})
}

func completeScale(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if strings.Contains(word, "=") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := complete.Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListServices(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, s := range r.Services {
				if isScalable(s.GetRevision().GetSpec().GetMode()) {
					out = append(out, s.GetService().GetName()+"=")
				}
			}
			return out, nil
		})
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
}
