package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// taskFilters are the keys that `service ps` and `node ps` filter by.
var taskFilters = []string{"id", "name", "node", "desired-state", "label"}

// allTasksFilters are the keys that `task ls --filter` takes.
var allTasksFilters = append([]string{"service"}, taskFilters...)

func newTask(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "task", Short: "Look at tasks"}, newTaskLs(deps), newTaskInspect(deps), newTaskLogs(deps))
}

type taskListOptions struct {
	command.ListOptions
	noTrunc, noResolve bool
}

func taskListFlags(c *cobra.Command, o *taskListOptions, filters []string) {
	command.ListFlags(c, &o.ListOptions, "Only display task IDs", filters)
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	c.Flags().BoolVar(&o.noResolve, "no-resolve", false, "Do not map IDs to Names")
}

var taskListing = term.Table{
	Columns: []term.Column{
		{"ID", "ID"},
		{"Name", "NAME"},
		{"Image", "IMAGE"},
		{"Node", "NODE"},
		{"DesiredState", "DESIRED STATE"},
		{"CurrentState", "CURRENT STATE"},
		{"Error", "ERROR"},
		{"Ports", "PORTS"},
	},
	More: []term.Column{{"ServiceID", "SERVICE ID"}, {"NodeID", "NODE ID"}, {"State", "STATE"}, {"Slot", "SLOT"}, {"Revision", "REVISION"}, {"Addresses", "ADDRESSES"}, {"Restarts", "RESTARTS"}, {"StartAfter", "START AFTER"}},
}

func newTaskLs(deps *command.Deps) *cobra.Command {
	var o taskListOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List tasks", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, rest, err := flag.ParseFilters(o.Filters, allTasksFilters...)
			if err != nil {
				return err
			}
			return deps.Connect(c.Context(), func(cl command.Client) error {
				for _, ref := range rest["service"] {
					s, err := cl.GetService(c.Context(), &swarmv1.GetRequest{Id: ref})
					if err != nil {
						return err
					}
					filter.ServiceIds = append(filter.ServiceIds, s.Service.Id)
				}
				_, err = listTasks(c.Context(), deps, cl, o, filter)
				return err
			})
		},
	})
	taskListFlags(c, &o, allTasksFilters)
	return c
}

// listTasks prints the tasks that fit the filter, with those that came before in their slots below them.
func listTasks(ctx context.Context, deps *command.Deps, c command.Client, o taskListOptions, filter *swarmv1.Filter) ([]*swarmv1.TaskInfo, error) {
	_, rest, err := flag.ParseFilters(o.Filters, allTasksFilters...)
	if err != nil {
		return nil, err
	}
	for _, ref := range rest["node"] {
		n, err := command.FindNode(ctx, c, ref)
		if err != nil {
			return nil, err
		}
		filter.NodeIds = append(filter.NodeIds, n.Node.Id)
	}
	r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	return r.Tasks, deps.PrintTable(taskListing, o.Format, taskRows(r.Tasks, o, deps.Now()))
}

// taskRows sorts by service and slot, newest first, and marks history as Docker does.
func taskRows(tasks []*swarmv1.TaskInfo, o taskListOptions, now time.Time) []term.Row {
	sortTasks(tasks)
	rows := make([]term.Row, 0, len(tasks))
	for i, t := range tasks {
		history := i > 0 && sameSlot(tasks[i-1], t)
		rows = append(rows, taskRow(t, o, history, now))
	}
	return rows
}

func sameSlot(a, b *swarmv1.TaskInfo) bool {
	return a.Task.GetServiceId() == b.Task.GetServiceId() && slotKey(a) == slotKey(b)
}

// slotKey names the slot of a task within its service: its number, or its node for global services.
func slotKey(t *swarmv1.TaskInfo) string {
	if t.GetTask().GetSlot() != 0 {
		return fmt.Sprintf("%010d", t.GetTask().GetSlot())
	}
	return term.TaskNode(t)
}

func sortTasks(tasks []*swarmv1.TaskInfo) {
	slices.SortStableFunc(tasks, func(a, b *swarmv1.TaskInfo) int {
		return cmp.Or(
			strings.Compare(a.ServiceName, b.ServiceName),
			strings.Compare(a.Task.GetServiceId(), b.Task.GetServiceId()),
			strings.Compare(slotKey(a), slotKey(b)),
			b.Task.GetMeta().GetCreatedAt().AsTime().Compare(a.Task.GetMeta().GetCreatedAt().AsTime()),
			strings.Compare(b.Task.GetId(), a.Task.GetId()),
		)
	})
}

// errorWidth is where the error column is cut.
const errorWidth = 40

func taskRow(t *swarmv1.TaskInfo, o taskListOptions, history bool, now time.Time) term.Row {
	task, st := t.GetTask(), t.GetStatus()
	id, name, image, node := task.GetId(), term.TaskName(t), t.GetImage(), term.TaskNode(t)
	if o.noResolve {
		name = strings.Replace(name, t.GetServiceName(), task.GetServiceId(), 1)
		node = task.GetNodeId()
	}
	failure := term.TaskError(st)
	if next := restartIn(task, st, now); next != "" {
		failure = next
	}
	if failure != "" {
		failure = `"` + failure + `"`
	}
	if !o.noTrunc {
		image = term.ShortImage(image)
	}
	// Only the table for people is cut, and of that not why a task waits: that is what they came for.
	if !o.noTrunc && o.Format.IsTable() {
		id = term.ShortID(id)
		if r := []rune(failure); len(r) > errorWidth && st.GetUnplaced() == nil {
			failure = string(r[:errorWidth-2]) + `…"`
		}
	}
	if history && o.Format.Template != "json" {
		name = ` \_ ` + name
	}
	state := term.Capitalized(term.EnumWord(st.GetState()))
	return term.Row{
		"ID": id, "Name": name, "Image": image, "Node": node,
		"DesiredState": term.Capitalized(term.EnumWord(task.GetDesiredState())),
		"CurrentState": strings.TrimSpace(state + " " + strings.ToLower(term.Ago(now, st.GetTimestamp()))),
		"Error":        failure, "Ports": hostPorts(st.GetPortStatus()),
		"ServiceID": task.GetServiceId(), "NodeID": task.GetNodeId(), "State": term.EnumWord(st.GetState()),
		"Slot": fmt.Sprint(task.GetSlot()), "Revision": fmt.Sprint(task.GetRevision()),
		"Addresses": addressList(task.GetNetworks()),
		"Restarts":  fmt.Sprint(task.GetRestarts().GetAttempts()), "StartAfter": term.Stamp(task.GetStartAfter()),
	}
}

// restartIn is "restart 4 in 20s" of a task that waits for the restart delay, "" for others.
func restartIn(task *swarmv1.Task, st *swarmv1.TaskStatus, now time.Time) string {
	left := task.GetStartAfter().AsTime().Sub(now)
	if task.GetRestarts().GetAttempts() == 0 || st.GetState() > swarmv1.TaskState_READY || task.GetDesiredState() > swarmv1.TaskState_RUNNING || left <= 0 {
		return ""
	}
	return fmt.Sprintf("restart %d in %s", task.GetRestarts().GetAttempts(), max(left.Round(time.Second), time.Second))
}

// addressList is a task's addresses on overlay networks, in the order of its interfaces.
func addressList(networks []*swarmv1.NetworkAttachment) string {
	var out []string
	for _, n := range networks {
		out = append(out, n.GetAddresses()...)
	}
	return strings.Join(out, ", ")
}

func hostPorts(ports []*swarmv1.PortConfig) string { return term.PortList(ports) }

func newTaskInspect(deps *command.Deps) *cobra.Command {
	return command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] TASK [TASK...]", Short: "Display detailed information on one or more tasks", Complete: complete.Tasks(deps),
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			t, err := c.GetTask(ctx, &swarmv1.GetRequest{Id: ref})
			if err != nil {
				return nil, err
			}
			// The service may be gone already: its task is shown without a spec.
			rev, _ := command.FindRevision(ctx, c, t.GetTask().GetServiceId(), t.GetTask().GetRevision())
			return taskObject(t, rev), nil
		},
	})
}

func taskObject(t *swarmv1.TaskInfo, rev *swarmv1.Revision) term.Object {
	task, st := t.GetTask(), t.GetStatus()
	o := term.Stored(task.GetId(), task.GetMeta())
	o = append(o, term.Member{"Name", term.TaskName(t)}, term.Member{"Image", t.GetImage()})
	if rev != nil {
		o = o.With("Spec", rev.GetSpec().GetTaskTemplate())
	}
	o = append(
		o,
		term.Member{"ServiceID", task.GetServiceId()},
		term.Member{"Revision", task.GetRevision()},
		term.Member{"Slot", task.GetSlot()},
		term.Member{"NodeID", task.GetNodeId()},
	)
	status := term.Describe(st)
	status = slices.DeleteFunc(status, func(m term.Member) bool { return m.Name == "Meta" || m.Name == "TaskID" })
	o = append(o, term.Member{"Status", status}, term.Member{"DesiredState", term.EnumWord(task.GetDesiredState())})
	for _, m := range term.Describe(task) {
		switch m.Name {
		case "StartAfter", "Deadline", "Restarts", "Networks", "JobIteration", "AssignedGenericResources", "Replaces":
			o = append(o, m)
		}
	}
	return o
}
