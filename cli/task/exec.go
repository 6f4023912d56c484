package task

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type execOptions struct {
	ref                          string
	command                      []string
	interactive, tty, privileged bool
	env, envFiles                flag.List
	user, dir                    string
}

// NewExec returns the verb `swarm exec`, which runs a command in a container of a task.
func NewExec(deps *command.Deps) *cobra.Command {
	o := execOptions{env: flag.List{Kind: "list", Check: flag.CheckEnv}, envFiles: flag.List{Kind: "list"}}
	c := command.Verb(&cobra.Command{
		Use: "exec [OPTIONS] TASK|SERVICE[.SLOT] COMMAND [ARG...]", Short: "Execute a command in a running task, on whatever node it is",
		Args: usage.MinArgs(2), ValidArgsFunction: completeExec(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref, o.command = args[0], args[1:]
			return runExec(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.SetInterspersed(false) // Flags after the task belong to the command.
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to the command")
	f.VarP(&o.env, "env", "e", "Set environment variables")
	f.Var(&o.envFiles, "env-file", "Read in a file of environment variables")
	f.StringVarP(&o.user, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
	f.StringVarP(&o.dir, "workdir", "w", "", "Working directory inside the container")
	return c
}

func runExec(ctx context.Context, deps *command.Deps, o execOptions) error {
	env, err := flag.Environment(o.env.Values, o.envFiles.Values, deps.Env)
	if err != nil {
		return err
	}
	keyboard, screen := term.TerminalOf(deps.In), term.TerminalOf(deps.Out)
	if o.tty && o.interactive && keyboard == nil {
		return usage.Invalidf("the input device is not a terminal: leave -t out")
	}
	start := &swarmv1.ExecStart{
		TaskId: o.ref, Command: o.command, Env: env, User: o.user, Dir: o.dir, Tty: o.tty, Stdin: o.interactive, Privileged: o.privileged,
	}
	code := 0
	err = deps.Connect(ctx, func(c command.Client) error {
		if o.tty && screen != nil {
			if w, h, err := screen.Size(); err == nil {
				start.Width, start.Height = uint32(w), uint32(h)
			}
		}
		var err error
		code, err = exec(ctx, deps, c, start, keyboard, screen)
		return err
	})
	switch {
	case err != nil:
		return usage.WithCode(err, codeNoAnswer)
	case code != 0:
		return usage.ExitError{Code: code}
	}
	return nil
}

// codeNoAnswer is the exit code of `swarm exec`, as in Docker, if the command did not run or its
// result is unknown. The codes 126 and 127 come from the node: the command cannot be executed, or
// was not found.
const codeNoAnswer = 125

// exec runs the command: it sends the user's input and prints the output of the command until the
// exit code arrives.
func exec(ctx context.Context, deps *command.Deps, c command.Client, start *swarmv1.ExecStart, keyboard, screen term.Terminal) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Exec(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if start.Tty && start.Stdin && keyboard != nil {
		restore, err := keyboard.Raw()
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	up := make(chan *swarmv1.ExecInput)
	if start.Stdin {
		// A read of standard input cannot be interrupted: this goroutine may outlive the verb by
		// one read.
		go readInput(ctx, deps.In, up)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		sendInput(ctx, stream, start, up, screen)
	}()
	code, err := receive(deps, stream, start.Tty)
	cancel()
	<-sent
	return code, err
}

func readInput(ctx context.Context, in io.Reader, up chan<- *swarmv1.ExecInput) {
	for {
		buf := make([]byte, 32<<10)
		n, err := in.Read(buf)
		messages := []*swarmv1.ExecInput{}
		if n > 0 {
			messages = append(messages, &swarmv1.ExecInput{Message: &swarmv1.ExecInput_Stdin{Stdin: buf[:n]}})
		}
		if err != nil {
			messages = append(messages, &swarmv1.ExecInput{Message: &swarmv1.ExecInput_CloseStdin{CloseStdin: true}})
		}
		for _, m := range messages {
			select {
			case up <- m:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// sendInput sends the user's input until ctx ends. Nothing else sends on the stream. It ignores
// errors, because the receiver gets the reason.
func sendInput(ctx context.Context, stream swarmv1.Control_ExecClient, start *swarmv1.ExecStart, up <-chan *swarmv1.ExecInput, screen term.Terminal) {
	var resized <-chan struct{}
	if start.Tty && screen != nil {
		resized = screen.Resized(ctx)
	}
	for {
		var m *swarmv1.ExecInput
		select {
		case <-ctx.Done():
			return
		case m = <-up:
		case <-resized:
			w, h, err := screen.Size()
			if err != nil {
				continue
			}
			m = &swarmv1.ExecInput{Message: &swarmv1.ExecInput_Resize{Resize: &swarmv1.Resize{Width: uint32(w), Height: uint32(h)}}}
		}
		if err := stream.Send(m); err != nil {
			return
		}
	}
}

// receive prints the output of the command until its exit code arrives. If tty is set, the command
// may control the user's terminal. If not, output to a terminal is escaped.
func receive(deps *command.Deps, stream swarmv1.Control_ExecClient, tty bool) (int, error) {
	stdout, stderr := term.Content(deps.Out, tty), term.Content(deps.Err, tty)
	defer term.Flush(stdout, stderr)
	started := false
	for {
		m, err := stream.Recv()
		if started && command.IsUnavailable(err) {
			return 0, errdefs.ErrUnavailable.WithMessage("the session has ended: a swarm daemon between here and the task stopped; the task goes on: run `swarm exec` again")
		}
		if errors.Is(err, io.EOF) {
			return 0, errdefs.ErrUnavailable.WithMessage("the session ended without an exit code: the node may have gone; see `swarm node ls`")
		}
		if err != nil {
			return 0, err
		}
		started = true
		switch m := m.Message.(type) {
		case *swarmv1.ExecOutput_Stdout:
			_, err = stdout.Write(m.Stdout)
		case *swarmv1.ExecOutput_Stderr:
			_, err = stderr.Write(m.Stderr)
		case *swarmv1.ExecOutput_ExitCode:
			return int(m.ExitCode), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// completeExec completes tasks by names such as web.2, because people remember names better than
// ids.
func completeExec(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return complete.Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{DesiredStates: []swarmv1.TaskState{swarmv1.TaskState_RUNNING}}})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, t := range r.Tasks {
				out = append(out, cobra.CompletionWithDesc(term.TaskName(t), term.TaskNode(t)))
			}
			return out, nil
		})
	}
}
