package top

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"swarm/cli/stats"
	swarmv1 "swarm/proto/swarm/v1"
)

var update = flag.Bool("update", false, "write golden screens")

// cluster is a snapshot of three nodes, of which one does not answer, and of two services. web has
// more tasks than a screen has rows.
func cluster() snapshot {
	s := snapshot{stats: &swarmv1.WatchStatsResponse{}, loads: map[string]stats.Load{}}
	for i := 1; i <= 3; i++ {
		id := fmt.Sprintf("n%d", i)
		info := &swarmv1.NodeInfo{
			Node:  &swarmv1.Node{Id: id, Hostname: fmt.Sprintf("host%d", i), Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_WORKER}},
			State: &swarmv1.NodeState{State: swarmv1.NodeState_READY},
		}
		host := &swarmv1.HostStats{NodeId: id, Name: info.Node.Hostname, Usage: &swarmv1.HostUsage{Cpus: 4, Memory: 3 << 30, MemoryLimit: 8 << 30, Load: 1.25}}
		switch i {
		case 1:
			info.Node.Spec.Role, info.ManagerStatus = swarmv1.NodeSpec_MANAGER, &swarmv1.ManagerStatus{Leader: true}
			s.loads[id] = stats.Load{CPU: 130, Known: true}
		case 3:
			info.State.State = swarmv1.NodeState_DOWN
			host.Usage, host.Error = nil, "it is down"
		}
		s.nodes, s.stats.Nodes = append(s.nodes, info), append(s.stats.Nodes, host)
	}
	service := func(id, name string, tasks uint64) {
		s.services = append(s.services, &swarmv1.ServiceInfo{
			Service:  &swarmv1.Service{Id: id, Name: name},
			Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{Mode: &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{}}}}},
			Status:   &swarmv1.ServiceStatus{RunningTasks: tasks, DesiredTasks: tasks + 1},
		})
	}
	service("s1", "web", 30)
	service("s2", "a-database-with-a-long-name", 1)
	add := func(service, name string, i int, state swarmv1.TaskState) {
		id := fmt.Sprintf("%s-%02d", service, i)
		t := &swarmv1.TaskStats{
			TaskId: id, ServiceId: service, Name: fmt.Sprintf("%s.%02d", name, i), NodeId: fmt.Sprintf("n%d", i%2+1), NodeName: fmt.Sprintf("host%d", i%2+1), State: state,
		}
		if state == swarmv1.TaskState_RUNNING {
			t.Usage = &swarmv1.TaskUsage{Memory: uint64(i) << 20, MemoryLimit: 100 << 20}
			s.loads[id] = stats.Load{CPU: float64(i%7) * 1.5, Received: 1500, Sent: 2e6, Known: true}
		}
		s.stats.Tasks = append(s.stats.Tasks, t)
	}
	for i := range 30 {
		add("s1", "web", i+1, swarmv1.TaskState_RUNNING)
	}
	add("s1", "web", 31, swarmv1.TaskState_FAILED)
	add("s2", "a-database-with-a-long-name", 1, swarmv1.TaskState_RUNNING)
	add("s2", "a-database-with-a-long-name", 2, swarmv1.TaskState_PENDING)
	return s
}

// user presses keys, and reads screens.
type user struct {
	t      *testing.T
	m      tea.Model
	opened []string // the logs that the model has opened
}

func newUser(t *testing.T) *user {
	u := &user{t: t}
	u.m = newModel(t.Context(), func(_ context.Context, call int, ref string) tea.Cmd {
		u.opened = append(u.opened, ref)
		return nil
	})
	return u
}

func (u *user) send(messages ...tea.Msg) (quit bool) {
	for _, msg := range messages {
		var cmd tea.Cmd
		u.m, cmd = u.m.Update(msg)
		if cmd != nil {
			if _, ok := cmd().(tea.QuitMsg); ok {
				quit = true
			}
		}
	}
	return quit
}

// press presses keys, which are separated by blanks.
func (u *user) press(keys string) (quit bool) {
	special := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft, "right": tea.KeyRight, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown,
		"home": tea.KeyHome, "end": tea.KeyEnd, "enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab,
	}
	for _, k := range strings.Fields(keys) {
		msg := tea.KeyPressMsg{Code: rune(k[0]), Text: k}
		if code, ok := special[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		} else if k == "ctrl+c" {
			msg = tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
		}
		quit = u.send(msg) || quit
	}
	return quit
}

// sees compares the screen with a golden file, and checks that it fits into the terminal. The
// chosen row and other reversed text is between > and <.
func (u *user) sees(name string, width, height int) {
	u.t.Helper()
	content := u.m.View().Content
	lines := strings.Split(content, "\n")
	if len(lines) > height {
		u.t.Errorf("%s: %d lines on a screen of %d", name, len(lines), height)
	}
	for i, line := range lines {
		if w := ansi.StringWidth(line); w > width {
			u.t.Errorf("%s: line %d is %d cells wide on a screen of %d", name, i+1, w, width)
		}
		mark := ""
		if strings.Contains(line, "\x1b[7m") && !strings.Contains(line, " 1 Nodes ") {
			mark = " <"
		}
		lines[i] = strings.TrimRight(ansi.Strip(line), " ") + mark
	}
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			u.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		u.t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		u.t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestModel_Screens(t *testing.T) {
	u := newUser(t)
	u.sees("waiting", 80, 24)
	u.send(cluster())
	u.sees("nodes", 80, 24)
	u.press("2")
	u.sees("services", 80, 24)
	u.press("3 end")
	u.sees("tasks-end", 80, 24)
	u.press("c home down")
	u.sees("tasks-by-cpu", 80, 24)
	u.press("n a end")
	u.sees("tasks-all", 80, 24)
	u.press("a 1 down enter")
	u.sees("tasks-of-node", 80, 24)
	u.send(tea.WindowSizeMsg{Width: 60, Height: 12})
	u.sees("tasks-of-node-small", 60, 12)
	u.send(tea.WindowSizeMsg{Width: 120, Height: 12})
	u.press("esc 2")
	u.sees("services-wide", 120, 12)
	u.send(tea.WindowSizeMsg{Width: 10, Height: 3}, tea.WindowSizeMsg{Width: 80, Height: 24}, lost{"connection\x1b[31m refused"})
	u.sees("lost", 80, 24)
	u.send(cluster())
	if strings.Contains(u.m.View().Content, "refused") {
		t.Error("the manager answers again, and the screen says that it does not")
	}
}

func TestModel_Log(t *testing.T) {
	u := newUser(t)
	u.send(cluster())
	u.press("3 down l")
	lines := func(call, from, to int) (out logLines) {
		out.call = call
		for i := from; i < to; i++ {
			out.lines = append(out.lines, fmt.Sprintf("line %d \x1b[2J%s", i, strings.Repeat("x", 3*i)))
		}
		return out
	}
	u.send(moreLines{logLines: lines(1, 0, 40)}, lines(99, 500, 501))
	u.sees("log", 80, 24)
	u.press("pgup")
	u.send(lines(1, 40, 45))
	u.sees("log-scrolled", 80, 24) // the same lines, although more have come
	u.press("end")
	u.send(logLines{call: 1, lines: []string{"the log has ended"}, ended: true})
	u.sees("log-ended", 80, 24)
	if u.press("q") {
		t.Error("q leaves the program while a log is shown: want back to the list")
	}
	u.press("1 l 2 l")
	if got, want := strings.Join(u.opened, " "), "s2-02  s2"; got != want {
		t.Errorf("opened %q, want %q", got, want)
	}
	if !u.press("ctrl+c") || !u.press("esc q") {
		t.Error("ctrl+c and q do not leave the program")
	}
}

// The chosen object stays chosen when rows come and go, and the cursor is on a row when it is gone.
func TestModel_KeepsTheChosenObject(t *testing.T) {
	u := newUser(t)
	s := cluster()
	u.send(s)
	u.press("3 down down down")
	chosen := func() string { m := u.m.(model); r, _ := m.chosenRow(); return r.name }
	if got := chosen(); got != "web.02" {
		t.Fatalf("chose %s, want web.02", got)
	}
	s = cluster()
	s.stats.Tasks = s.stats.Tasks[1:]
	u.send(s)
	if got := chosen(); got != "web.02" {
		t.Errorf("after another task has gone, %s is chosen", got)
	}
	s.stats.Tasks = s.stats.Tasks[5:]
	u.send(s)
	if got := chosen(); got == "" || got == "web.02" {
		t.Errorf("after the task has gone, %q is chosen", got)
	}
	s.stats.Tasks = nil
	u.send(s)
	u.press("down up pgdown end enter l")
	if len(u.opened) != 0 {
		t.Errorf("opened %q from an empty list", u.opened)
	}
}
