package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/converge"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/pause"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// drainPoll is how often drain looks at the tasks of a node.
	drainPoll = 500 * time.Millisecond
	// drainReserve is how long drain waits without progress, in addition to the longest stop grace
	// period of the services, before it reports the tasks that are left on a node.
	drainReserve = 30 * time.Second
)

type drainOptions struct {
	refs          []string
	detach, quiet bool
}

func newDrain(deps *command.Deps) *cobra.Command {
	var o drainOptions
	c := command.Verb(&cobra.Command{
		Use: "drain [OPTIONS] NODE [NODE...]", Short: "Drain one or more nodes and wait until their services run elsewhere",
		Args: usage.MinArgs(1), ValidArgsFunction: complete.Nodes(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.refs = args
			return runDrain(c.Context(), deps, o)
		},
	})
	c.Flags().BoolVarP(&o.detach, "detach", "d", false, "Exit immediately instead of waiting for the services to converge")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress output")
	return c
}

// runDrain sets the availability of all nodes before it waits for any, so that no task moves from
// one of them to another. It prints each node that it has set to drain.
func runDrain(ctx context.Context, deps *command.Deps, o drainOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		d := &drain{deps: deps, client: c, quiet: o.quiet, ids: map[string]string{}, services: map[string]string{}, stuck: map[string]bool{}}
		err := deps.OnEach(o.refs, func(ref string) error { return d.begin(ctx, ref) })
		if o.detach || len(d.ids) == 0 {
			return err
		}
		return errors.Join(err, d.wait(ctx))
	})
}

// drain is one run of the verb.
type drain struct {
	deps   *command.Deps
	client command.Client
	quiet  bool
	// index is the version of the node that was edited last. A failure of a task that was reported
	// before that version does not count.
	index uint64
	// ids are the ids of the nodes, by the reference that the user typed.
	ids map[string]string
	// services are the names of the services that had tasks on the nodes, by id.
	services map[string]string
	// stuck are the ids of the services that will not converge. The planner may leave their tasks
	// on the node, as with the update order start-first when no other node takes a task.
	stuck map[string]bool
	// grace is the longest stop grace period of the services.
	grace time.Duration
}

// begin sets the availability of a node and notes the services that have tasks on the node. It
// lists the tasks before the edit, because a task may stop at once, and again after the edit,
// because a task may have started meanwhile.
func (d *drain) begin(ctx context.Context, ref string) error {
	n, err := command.FindNode(ctx, d.client, ref)
	if err != nil {
		return err
	}
	id := n.GetNode().GetId()
	if _, err := d.recordTasks(ctx, id); err != nil {
		return err
	}
	if _, err := updateNode(ctx, d.client, id, "", func(s *swarmv1.NodeSpec) error {
		s.Availability = swarmv1.NodeSpec_DRAIN
		return nil
	}); err != nil {
		return err
	}
	term.Printf(d.deps.Out, "%s\n", ref)
	d.ids[ref] = id
	if n, err = command.FindNode(ctx, d.client, id); err != nil {
		return err
	}
	d.index = max(d.index, n.GetNode().GetMeta().GetVersion())
	_, err = d.recordTasks(ctx, id)
	return err
}

// recordTasks adds the services of the tasks on a node that have not ended to d.services, and
// returns these tasks.
func (d *drain) recordTasks(ctx context.Context, id string) ([]*swarmv1.TaskInfo, error) {
	r, err := d.client.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{NodeIds: []string{id}}})
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(r.GetTasks(), func(t *swarmv1.TaskInfo) bool { return t.GetStatus().GetState() > swarmv1.TaskState_RUNNING })
	for _, t := range left {
		if service := t.GetTask().GetServiceId(); service != "" {
			d.services[service] = t.GetServiceName()
		}
	}
	return left, nil
}

// wait waits for the services, and then for the tasks that still stop on the nodes.
func (d *drain) wait(ctx context.Context) error {
	ids := slices.SortedFunc(maps.Keys(d.services), func(a, b string) int {
		return strings.Compare(d.services[a]+"\x00"+a, d.services[b]+"\x00"+b)
	})
	err := d.deps.OnEach(ids, func(id string) error { return d.awaitService(ctx, id) })
	if ctx.Err() != nil {
		return err // converge.Wait has told the user that the drain goes on.
	}
	refs := slices.Sorted(maps.Keys(d.ids))
	return errors.Join(err, d.deps.OnEach(refs, func(ref string) error { return d.awaitEmpty(ctx, ref) }))
}

// awaitService waits until a service has converged. It waits neither for a service that is being
// removed, nor for a job, because the tasks of a job may run for days on their new nodes.
func (d *drain) awaitService(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return nil
	}
	s, err := d.client.GetService(ctx, &swarmv1.GetRequest{Id: id})
	switch {
	case command.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	asked := s.GetRevision().GetSpec()
	d.grace = max(d.grace, spec.StopGrace(asked.GetTaskTemplate().GetContainerSpec()))
	if s.GetService().GetPendingDelete() || spec.IsJob(asked.GetMode()) {
		return nil
	}
	if !d.quiet {
		term.Printf(d.deps.Err, "service %s:\n", d.services[id])
	}
	err = converge.Wait(ctx, d.deps, d.client, converge.Change{ServiceID: id, Index: d.index}, d.quiet)
	if command.IsNotFound(err) {
		return nil
	}
	if err != nil {
		d.stuck[id] = true
		return fmt.Errorf("service %s: %w", d.services[id], err)
	}
	return nil
}

// awaitEmpty waits until no task is left on a node. It returns an error if no task that is left is
// going to stop, if the node is down, or if the number of tasks has not changed for too long.
func (d *drain) awaitEmpty(ctx context.Context, ref string) error {
	view, id := term.NewView(d.deps.Err, d.quiet), d.ids[ref]
	count, changed := -1, d.deps.Now()
	for {
		n, err := d.client.GetNode(ctx, &swarmv1.GetRequest{Id: id})
		var left []*swarmv1.TaskInfo
		if err == nil {
			left, err = d.recordTasks(ctx, id)
		}
		late := d.deps.Now().Sub(changed) > d.grace+drainReserve
		switch {
		case ctx.Err() != nil:
			term.Printf(d.deps.Err, "Operation continuing in background.\nUse `swarm node ps %s` to check progress.\n", ref)
			return nil
		case err != nil && (late || !command.IsUnavailable(err)):
			return err
		case err != nil: // Another manager may answer the next call.
		case len(left) == 0:
			d.done(ref)
			return nil
		case n.GetState().GetState() == swarmv1.NodeState_DOWN:
			return leftError("node %s is down, and it is unknown whether it still runs", ref, left)
		case late || !slices.ContainsFunc(left, d.stops):
			return leftError("node %s is set to drain, but still runs", ref, left)
		case len(left) != count:
			count, changed = len(left), d.deps.Now()
			view.Draw([]string{fmt.Sprintf("node %s: %d task%s still to stop", ref, count, term.Plural(count))})
		}
		_ = pause.For(ctx, drainPoll) // If ctx has ended, the next look finds it.
	}
}

// stops reports whether a task that is left on a node is expected to stop.
func (d *drain) stops(t *swarmv1.TaskInfo) bool {
	return t.GetTask().GetDesiredState() > swarmv1.TaskState_RUNNING || !d.stuck[t.GetTask().GetServiceId()]
}

func (d *drain) done(ref string) {
	if !d.quiet {
		term.Printf(d.deps.Err, "verify: Node %s runs no tasks\n", ref)
	}
}

// leftError returns an error that names the tasks which are left on a node.
func leftError(format, ref string, left []*swarmv1.TaskInfo) error {
	names := make([]string, len(left))
	for i, t := range left {
		names[i] = term.TaskName(t)
	}
	slices.Sort(names)
	if more := len(names) - term.MaxLines; more > 0 {
		names = append(names[:term.MaxLines], fmt.Sprintf("and %d more", more))
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(format, ref) + " " + strings.Join(names, ", ") + fmt.Sprintf("; see `swarm node ps %s`", ref))
}
