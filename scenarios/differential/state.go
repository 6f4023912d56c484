package differential

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// task has the fields of a task's inspect output that a recorded state shows. Both systems print
// them in the same form.
type task struct {
	ID, ServiceID, NodeID, DesiredState string
	Slot                                int
	CreatedAt                           time.Time
	Status                              struct {
		State           string
		ContainerStatus struct{ ExitCode int }
	}
}

// node has the fields of a node's inspect output that the class of a node is made of.
type node struct {
	ID          string
	Spec        struct{ Availability, Role string }
	Description struct{ Hostname string }
	Status      struct{ State string }
}

// service has the fields of a service's inspect output that a recorded state shows.
type service struct {
	ID           string
	UpdateStatus struct{ State string }
	Spec         struct{ Name string }
	// replicas is the cell REPLICAS of `service ls`.
	mode, replicas string
	tasks          []task
}

// state is what is known of the services of a script at one time.
type state struct {
	services []*service
	nodes    map[string]node
}

// terminal are the states that a task does not leave.
var terminal = []string{"complete", "shutdown", "failed", "rejected", "orphaned", "remove"}

// atRest reports whether nothing is under way. A task that waits for a node is at rest. satisfied
// says that every service has what it wants.
func (s state) atRest() (rest, satisfied bool) {
	satisfied = true
	for _, svc := range s.services {
		if u := svc.UpdateStatus.State; u == "updating" || u == "rollback_started" {
			return false, false
		}
		satisfied = satisfied && svc.satisfied()
		for _, t := range svc.tasks {
			if !s.still(t) {
				return false, false
			}
		}
	}
	return true, satisfied
}

// satisfied reports whether as many tasks run as the service wants, or have completed, for a job.
// The cell REPLICAS is "2/3", or "0/2 (5/5 completed)" for a job.
func (s *service) satisfied() bool {
	cell := s.replicas
	if _, completed, job := strings.Cut(cell, "("); job {
		cell = completed
	}
	running, wanted, _ := strings.Cut(cell, "/")
	wanted, _, _ = strings.Cut(wanted, " ")
	return running == wanted
}

// still reports whether a task stays as it is. A task of a job may run for ever.
func (s state) still(t task) bool {
	if slices.Contains(terminal, t.Status.State) {
		return true
	}
	if n, placed := s.nodes[t.NodeID]; placed && n.Status.State != "ready" {
		return t.DesiredState == "shutdown"
	}
	if t.Status.State == "running" && t.DesiredState == "complete" {
		return true
	}
	return t.Status.State == t.DesiredState && t.Status.State != "ready" || t.Status.State == "pending" && t.DesiredState != "shutdown"
}

// lines returns the recorded form: no identifiers, no times, and no node that the planner may
// choose as well as another.
func (s state) lines(moves bool) []string {
	var out []string
	for _, svc := range s.services {
		head := fmt.Sprintf("service %s: %s %s", svc.Spec.Name, svc.mode, svc.replicas)
		if svc.UpdateStatus.State != "" {
			head += ", update " + svc.UpdateStatus.State
		}
		out = append(out, head)
		out = append(out, s.slots(svc, moves)...)
		if spread := s.spread(svc); spread != "" {
			out = append(out, "    tasks on nodes: "+spread)
		}
	}
	return out
}

// slots returns one line for each history that slots have. The number of a slot is not recorded:
// which slots a planner changes first is its own affair. The slots of a global service are nodes.
func (s state) slots(svc *service, moves bool) []string {
	slots := map[string][]task{}
	for _, t := range svc.tasks {
		key := fmt.Sprint(t.Slot)
		if svc.global() {
			key = s.nodes[t.NodeID].Description.Hostname
		}
		slots[key] = append(slots[key], t)
	}
	count := map[string]int{}
	for key, tasks := range slots {
		history := s.history(tasks, moves)
		if svc.global() {
			history = key + ": " + history
		}
		count[history]++
	}
	var out []string
	for history, n := range count {
		if !svc.global() {
			history = fmt.Sprintf("%d x %s", n, history)
		}
		out = append(out, "    "+history)
	}
	slices.Sort(out)
	return out
}

func (s *service) global() bool { return strings.HasPrefix(s.mode, "global") }

// history returns the recorded form of the tasks of a slot, the newest first.
func (s state) history(tasks []task, moves bool) string {
	slices.SortFunc(tasks, func(a, b task) int { return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.ID, b.ID)) })
	var told []string
	for i, t := range tasks {
		one := s.tell(t)
		if moves && i+1 < len(tasks) && t.NodeID != "" {
			one += map[bool]string{true: ", same node as before", false: ", another node"}[t.NodeID == tasks[i+1].NodeID]
		}
		told = append(told, one)
	}
	return strings.Join(told, "; before: ")
}

// tell returns the recorded form of a task. The desired state is shown where it is not the state
// itself; every ended task of a slot is to be shut down.
func (s state) tell(t task) string {
	out := t.Status.State
	if slices.Contains([]string{"failed", "complete", "shutdown"}, t.Status.State) {
		out += fmt.Sprintf(" with code %d", t.Status.ContainerStatus.ExitCode)
	}
	if t.DesiredState != t.Status.State {
		out += " (desired " + t.DesiredState + ")"
	}
	n, placed := s.nodes[t.NodeID]
	switch {
	case t.NodeID == "":
		out += " on no node"
	case !placed:
		out += " on a removed node"
	case n.Status.State != "ready":
		out += " on a lost node"
	case n.Spec.Availability != "active":
		out += " on a node to " + n.Spec.Availability
	}
	return out
}

// spread returns the numbers of running tasks on the nodes, the largest first.
func (s state) spread(svc *service) string {
	count := map[string]int{}
	for _, t := range svc.tasks {
		if t.Status.State == "running" && t.DesiredState != "shutdown" {
			count[t.NodeID]++
		}
	}
	var numbers []string
	for _, n := range count {
		numbers = append(numbers, fmt.Sprint(n))
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return strings.Join(numbers, " ")
}

// observe reads the state of services. A service that has been removed has none.
func observe(ctx context.Context, sys System, names []string) (state, error) {
	s := state{nodes: map[string]node{}}
	nodes, err := inspect[node](ctx, sys, []string{"node", "ls", "-q"}, []string{"node", "inspect"})
	if err != nil {
		return s, err
	}
	for _, n := range nodes {
		s.nodes[n.ID] = n
	}
	listed, err := sys.Run(ctx, "", "service", "ls", "--format", "{{.Name}}\t{{.Mode}}\t{{.Replicas}}")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(listed) {
		cells := strings.Split(strings.TrimSpace(line), "\t")
		if len(cells) < 3 || !slices.Contains(names, cells[0]) {
			continue
		}
		one, err := observeService(ctx, sys, cells[0])
		if err != nil {
			return s, err
		}
		one.mode, one.replicas = cells[1], cells[2]
		s.services = append(s.services, one)
	}
	slices.SortFunc(s.services, func(a, b *service) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	return s, nil
}

func observeService(ctx context.Context, sys System, name string) (*service, error) {
	out, err := sys.Run(ctx, "", "service", "inspect", name)
	if err != nil {
		return nil, err
	}
	var found []*service
	if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 {
		return nil, fmt.Errorf("service inspect %s: %d services, %w", name, len(found), err)
	}
	found[0].tasks, err = inspect[task](ctx, sys, []string{"service", "ps", "-q", "--no-trunc", name}, sys.InspectTasks())
	return found[0], err
}

// inspect returns the objects whose identifiers a command lists.
func inspect[T any](ctx context.Context, sys System, list, show []string) (out []T, err error) {
	ids, err := sys.Run(ctx, "", list...)
	if err != nil || strings.TrimSpace(ids) == "" {
		return nil, err
	}
	text, err := sys.Run(ctx, "", slices.Concat(show, strings.Fields(ids))...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(show, " "), err)
	}
	return out, nil
}
