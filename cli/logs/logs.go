package logs

import (
	"context"
	"errors"
	"io"
	"strconv"
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

type options struct {
	ref                              string
	task                             bool // ref is a task's
	follow, timestamps, raw, details bool
	noResolve, noTaskIDs, noTrunc    bool
	since, until, tail               string
	run                              uint64 // of a job; 0: all
}

// NewService returns the verb `service logs`.
func NewService(deps *command.Deps) *cobra.Command {
	return newVerb(deps, "SERVICE|TASK", "Fetch the logs of a service or task", false, complete.Services(deps))
}

// NewTask returns the verb `task logs`.
func NewTask(deps *command.Deps) *cobra.Command {
	return newVerb(deps, "TASK", "Fetch the logs of a task", true, complete.Tasks(deps))
}

func newVerb(deps *command.Deps, what, short string, task bool, complete cobra.CompletionFunc) *cobra.Command {
	o := options{task: task}
	c := command.Verb(&cobra.Command{
		Use: "logs [OPTIONS] " + what, Short: short, Args: usage.ExactArgs(1), ValidArgsFunction: complete,
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return run(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.BoolVar(&o.details, "details", false, "Show extra details provided to logs")
	f.BoolVarP(&o.follow, "follow", "f", false, "Follow log output")
	f.BoolVar(&o.noResolve, "no-resolve", false, "Do not map IDs to Names in output")
	f.BoolVar(&o.noTaskIDs, "no-task-ids", false, "Do not include task IDs in output")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	f.BoolVar(&o.raw, "raw", false, "Do not neatly format logs, nor escape control characters on a terminal")
	f.StringVar(&o.since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&o.until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVarP(&o.tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	if !task {
		f.Uint64Var(&o.run, "run", 0, "Show only the logs of this run of a job, as service runs numbers them")
	}
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "Show timestamps")
	return c
}

// options returns the flags as managers take them.
func (o options) options(now time.Time) (*swarmv1.LogOptions, error) {
	out := &swarmv1.LogOptions{Follow: o.follow, Tail: -1, Details: o.details}
	if o.tail != "all" && o.tail != "" {
		n, err := strconv.ParseInt(o.tail, 10, 64)
		if err != nil || n < 0 {
			return nil, usage.Invalidf("--tail %q is not a number of lines: use 0 or more, or all", o.tail)
		}
		out.Tail = n
	}
	var err error
	if out.Since, err = flag.ParseTime("since", o.since, now); err != nil {
		return nil, err
	}
	out.Until, err = flag.ParseTime("until", o.until, now)
	return out, err
}

func run(ctx context.Context, deps *command.Deps, o options) error {
	options, err := o.options(deps.Now())
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		// The manager finds out whether the reference is that of a task.
		req := &swarmv1.LogsRequest{Service: o.ref, Options: options, Run: o.run}
		if o.task {
			req = &swarmv1.LogsRequest{Task: o.ref, Options: options}
		}
		p := &printer{out: term.Content(deps.Out, o.raw), err: term.Content(deps.Err, o.raw), options: o, raw: o.raw}
		if !o.raw {
			p.find = taskFinder(ctx, c, req.Service)
		}
		if err := follow(ctx, c, req, p); err != nil && !(o.follow && ctx.Err() != nil) {
			return err
		}
		return nil
	})
}

// taskFinder returns a function that returns the task for the prefix of a line. taskFinder lists
// the tasks of the service in one call. The function asks for a newer task when it first prints a
// line.
func taskFinder(ctx context.Context, c command.Client, service string) func(id string) *swarmv1.TaskInfo {
	known := map[string]*swarmv1.TaskInfo{}
	if service != "" {
		if r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{ServiceIds: []string{service}}}); err == nil {
			for _, t := range r.Tasks {
				known[t.Task.GetId()] = t
			}
		}
	}
	return func(id string) *swarmv1.TaskInfo {
		t, ok := known[id]
		if !ok {
			t, _ = c.GetTask(ctx, &swarmv1.GetRequest{Id: id}) // If the task is gone, its id is shown.
			known[id] = t
		}
		return t
	}
}

func follow(ctx context.Context, c command.Client, req *swarmv1.LogsRequest, p *printer) error {
	stream, err := c.Logs(ctx, req)
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			p.flush()
			return nil
		}
		if err != nil {
			p.flush()
			return err
		}
		p.write(r)
	}
}

// Text returns the lines of records of one task, from both of its streams, without prefixes. It
// does not escape them.
func Text(records []*swarmv1.LogRecord) string {
	var lines strings.Builder
	p := &printer{out: &lines, err: &lines, raw: true}
	p.write(&swarmv1.TaskLogsResponse{Records: records})
	p.flush()
	return lines.String()
}
