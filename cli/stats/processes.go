package stats

import (
	"context"
	"fmt"
	"time"

	"swarm/cli/command"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// processes has the columns of `docker top`, which are those of `ps -ef`.
var processes = term.Table{
	Id: "PID",
	Columns: []term.Column{
		{"UID", "UID"},
		{"PID", "PID"},
		{"PPID", "PPID"},
		{"C", "C"},
		{"STIME", "STIME"},
		{"TTY", "TTY"},
		{"TIME", "TIME"},
		{"CMD", "CMD"},
	},
}

// Processes prints the processes in the container of a task.
func Processes(ctx context.Context, deps *command.Deps, task string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Stats.GetProcesses(ctx, &swarmv1.ProcessesRequest{Task: task})
		if err != nil {
			return err
		}
		var rows []term.Row
		for _, p := range r.GetProcesses() {
			tty := p.GetTty()
			if tty == "" {
				tty = "?"
			}
			rows = append(rows, term.Row{
				"UID": p.GetUser(), "PID": fmt.Sprint(p.GetPid()), "PPID": fmt.Sprint(p.GetParent()), "C": fmt.Sprint(p.GetPercent()),
				"STIME": startTime(deps.Now(), p.GetStarted().AsTime()), "TTY": tty, "TIME": cpuTime(p.GetCpu()), "CMD": p.GetCommand(),
			})
		}
		if r.GetMore() > 0 {
			term.Printf(deps.Err, "%d more processes are not shown\n", r.GetMore())
		}
		return processes.Print(deps.Out, term.Format{}, rows)
	})
}

// startTime returns when a process started as ps does: the time of the last day, else the date.
func startTime(now, started time.Time) string {
	started = started.In(now.Location())
	if now.Sub(started) < 24*time.Hour {
		return started.Format("15:04")
	}
	return started.Format("Jan02")
}

// cpuTime returns nanoseconds as HH:MM:SS.
func cpuTime(ns uint64) string {
	s := ns / uint64(time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
