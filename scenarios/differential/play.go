package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// System is a cluster of three managers, node1 to node3, that a script is played on.
type System interface {
	// Run runs a command of the system's command line on a node that was not killed, and returns
	// its standard output. The error is a *Refusal if the program ended with another code than 0.
	Run(ctx context.Context, stdin string, args ...string) (string, error)
	// InspectTasks returns the command that prints tasks as JSON.
	InspectTasks() []string
	// Kill ends all processes of a node at once, its containers included.
	Kill(ctx context.Context, node string) error
	// Start starts a killed node.
	Start(ctx context.Context, node string) error
	// Quiet returns how long a cluster must not change to be at rest: if all services have what
	// they want, and if not.
	Quiet() (satisfied, otherwise time.Duration)
}

// Refusal is the error of a command that ended with another code than 0.
type Refusal struct{ Message string }

func (r *Refusal) Error() string { return r.Message }

// Result is what one step gave.
type Result struct {
	Step Step
	// Lines are what is recorded of the step.
	Lines []string
	// Message is the message of a refused command. It is not recorded.
	Message string
}

// restTimeout bounds the time until a cluster is at rest.
const restTimeout = 2 * time.Minute

// pollPeriod is the interval at which the state is read.
const pollPeriod = 250 * time.Millisecond

// Play plays a script and returns the results of its steps. At the end it removes the services of
// the script.
func Play(ctx context.Context, sys System, s *Script) (out []Result, err error) {
	p := player{sys: sys, lost: map[string]bool{}}
	defer func() { err = errors.Join(err, p.clean(ctx)) }()
	for _, step := range s.Steps {
		r, err := p.step(ctx, step)
		if err != nil {
			return out, fmt.Errorf("%s: %s: %w", s.Name, step.Text, err)
		}
		out = append(out, r)
	}
	return out, nil
}

type player struct {
	sys      System
	services []string
	lost     map[string]bool // nodes that were killed
}

func (p *player) step(ctx context.Context, step Step) (r Result, err error) {
	r.Step = step
	switch step.Words[0] {
	case "rest":
		r.Lines, err = p.rest(ctx, len(step.Words) > 1)
	case "logs":
		r.Lines, err = p.logs(ctx, step.Words[1], step.Words[2])
	case "kill":
		p.lost[step.Words[1]] = true
		err = p.sys.Kill(ctx, step.Words[1])
	case "start":
		delete(p.lost, step.Words[1])
		err = p.sys.Start(ctx, step.Words[1])
	default:
		var refusal *Refusal
		if _, err = p.sys.Run(ctx, step.Stdin, step.Words...); errors.As(err, &refusal) {
			r.Lines, r.Message, err = []string{"refused"}, refusal.Message, nil
		} else if name := step.created(); name != "" {
			p.services = append(p.services, name)
		}
	}
	return r, err
}

// rest waits until the cluster is at rest and has been for some time.
func (p *player) rest(ctx context.Context, moves bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	quiet, longer := p.sys.Quiet()
	var lines []string
	var seen time.Time
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		s, err := observe(ctx, p.sys, p.services)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("not at rest after %s: %s", restTimeout, strings.Join(lines, "\n"))
		}
		var refusal *Refusal
		if err != nil && !errors.As(err, &refusal) { // A task may have gone between two commands.
			return nil, err
		}
		rest, satisfied := s.atRest()
		now := s.lines(moves)
		switch {
		case err != nil || !rest || !p.known(s) || !slices.Equal(now, lines):
			seen = time.Now()
			lines = now
		case satisfied && time.Since(seen) >= quiet, time.Since(seen) >= longer:
			return lines, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// known reports whether the cluster knows which nodes were killed and which were not.
func (p *player) known(s state) bool {
	for _, n := range s.nodes {
		want := "ready"
		if p.lost[n.Description.Hostname] {
			want = "down"
		}
		if n.Status.State != want {
			return false
		}
	}
	return true
}

// logs waits until lines with a prefix are in the logs of a service, and returns them sorted.
func (p *player) logs(ctx context.Context, service, prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		text, err := p.sys.Run(ctx, "", "service", "logs", "--raw", service)
		if err != nil {
			return nil, err
		}
		var out []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, prefix) {
				out = append(out, "    "+strings.TrimSpace(line))
			}
		}
		if slices.Sort(out); len(out) > 0 {
			return out, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("no line with %q: %w", prefix, ctx.Err())
		}
	}
}

// clean removes the services.
func (p *player) clean(ctx context.Context) error {
	var all error
	for _, name := range p.services {
		var refusal *Refusal
		if _, err := p.sys.Run(ctx, "", "service", "rm", name); err != nil && !errors.As(err, &refusal) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// Format returns the text of a golden file.
func Format(results []Result) string {
	var b strings.Builder
	for _, r := range results {
		fmt.Fprintf(&b, "$ %s\n", r.Step.Text)
		for _, line := range r.Lines {
			fmt.Fprintln(&b, line)
		}
	}
	return b.String()
}
