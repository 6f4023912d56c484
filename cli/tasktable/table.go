package tasktable

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"swarm/internal/explain"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// Filters are the keys that `service ps` and `node ps` filter by.
var Filters = []string{"id", "name", "node", "desired-state", "label"}

// AllFilters are the keys that `task ls --filter` takes.
var AllFilters = append([]string{"service"}, Filters...)

// Options are the values of the flags that RegisterFlags adds.
type Options struct {
	command.ListOptions
	noTrunc, noResolve bool
}

// RegisterFlags adds the flags of the table to a verb. filters are the keys that --filter takes.
func RegisterFlags(c *cobra.Command, o *Options, filters []string) {
	command.ListFlags(c, &o.ListOptions, "Only display task IDs", filters)
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	c.Flags().BoolVar(&o.noResolve, "no-resolve", false, "Do not map IDs to Names")
}

var listing = term.Table{
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

// Print prints the tasks that fit filter and the nodes named by --filter, and returns them in the
// order in which they were printed.
func Print(ctx context.Context, deps *command.Deps, c command.Client, o Options, filter *swarmv1.Filter) ([]*swarmv1.TaskInfo, error) {
	_, rest, err := flag.ParseFilters(o.Filters, AllFilters...)
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
	return r.Tasks, deps.PrintTable(listing, o.Format, taskRows(r.Tasks, o, deps.Now()))
}

// taskRows sorts the tasks, and marks replaced tasks in the same way as Docker.
func taskRows(tasks []*swarmv1.TaskInfo, o Options, now time.Time) []term.Row {
	Sort(tasks)
	rows := make([]term.Row, 0, len(tasks))
	for i, t := range tasks {
		history := i > 0 && sameSlot(tasks[i-1], t)
		rows = append(rows, taskRow(t, o, history, now))
	}
	return rows
}

func sameSlot(a, b *swarmv1.TaskInfo) bool {
	return a.Task.GetServiceId() == b.Task.GetServiceId() && SlotKey(a) == SlotKey(b)
}

// SlotKey identifies the slot of a task within its service: by its number, or by the node for a
// task of a global service.
func SlotKey(t *swarmv1.TaskInfo) string {
	if t.GetTask().GetSlot() != 0 {
		return fmt.Sprintf("%010d", t.GetTask().GetSlot())
	}
	return term.TaskNode(t)
}

// Sort sorts tasks by service and slot, the newest of a slot first.
func Sort(tasks []*swarmv1.TaskInfo) {
	slices.SortStableFunc(tasks, func(a, b *swarmv1.TaskInfo) int {
		return cmp.Or(
			strings.Compare(a.ServiceName, b.ServiceName),
			strings.Compare(a.Task.GetServiceId(), b.Task.GetServiceId()),
			strings.Compare(SlotKey(a), SlotKey(b)),
			b.Task.GetMeta().GetCreatedAt().AsTime().Compare(a.Task.GetMeta().GetCreatedAt().AsTime()),
			strings.Compare(b.Task.GetId(), a.Task.GetId()),
		)
	})
}

// errorWidth is the width in characters at which the column ERROR is cut.
const errorWidth = 40

func taskRow(t *swarmv1.TaskInfo, o Options, history bool, now time.Time) term.Row {
	task, st := t.GetTask(), t.GetStatus()
	id, name, image, node := task.GetId(), term.TaskName(t), t.GetImage(), term.TaskNode(t)
	if o.noResolve {
		name = strings.Replace(name, t.GetServiceName(), task.GetServiceId(), 1)
		node = task.GetNodeId()
	}
	failure := explain.TaskError(st)
	if next := restartIn(task, st, now); next != "" {
		failure = next
	}
	if failure != "" {
		failure = `"` + failure + `"`
	}
	if !o.noTrunc {
		image = term.ShortImage(image)
	}
	// Errors are cut in the default table only. The reason why a task waits is never cut.
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

// restartIn returns "restart 4 in 20s" for a task that waits for its restart delay, and "" for any
// other task.
func restartIn(task *swarmv1.Task, st *swarmv1.TaskStatus, now time.Time) string {
	left := task.GetStartAfter().AsTime().Sub(now)
	if task.GetRestarts().GetAttempts() == 0 || st.GetState() > swarmv1.TaskState_READY || task.GetDesiredState() > swarmv1.TaskState_RUNNING || left <= 0 {
		return ""
	}
	return fmt.Sprintf("restart %d in %s", task.GetRestarts().GetAttempts(), max(left.Round(time.Second), time.Second))
}

// addressList returns a task's addresses on overlay networks, in the order of its interfaces.
func addressList(networks []*swarmv1.NetworkAttachment) string {
	var out []string
	for _, n := range networks {
		out = append(out, n.GetAddresses()...)
	}
	return strings.Join(out, ", ")
}

func hostPorts(ports []*swarmv1.PortConfig) string { return term.PortList(ports) }
