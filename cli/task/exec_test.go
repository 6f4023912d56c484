package task_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// echoExec is a container whose command is cat, and whose exit code is how often it was resized
// plus the length of the input.
func echoExec(started **swarmv1.ExecStart) func(swarmv1.Control_ExecServer) error {
	return func(stream swarmv1.Control_ExecServer) error {
		n := 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			switch m := m.Message.(type) {
			case *swarmv1.ExecInput_Start:
				*started = m.Start
				if !m.Start.Stdin {
					return stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: 0}})
				}
			case *swarmv1.ExecInput_Stdin:
				n += len(m.Stdin)
				if err := stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: m.Stdin}}); err != nil {
					return err
				}
			case *swarmv1.ExecInput_CloseStdin:
				if err := stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stderr{Stderr: []byte("bye\n")}}); err != nil {
					return err
				}
				return stream.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: int32(n)}})
			}
		}
	}
}

func TestExec(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	var started *swarmv1.ExecStart
	s.OnExec = echoExec(&started)
	// Which task that is, the manager decides: the same rule as everywhere.
	for _, ref := range []string{"web", "web.1", "taskaaaaaaaaaaaaaaaaaaaa1"} {
		started = nil
		got := clitest.Run{Server: s}.Run(t, "exec", "-e", "A=1", "-u", "7", "-w", "/w", ref, "ls", "-l")
		if got.Code != 0 || started.GetTaskId() != ref || strings.Join(started.Command, " ") != "ls -l" || started.User != "7" || started.Dir != "/w" || started.Env[0] != "A=1" {
			t.Errorf("%s: got %+v, %v", ref, got, started)
		}
	}
	s.OnExec = func(swarmv1.Control_ExecServer) error { return clitest.NotFound("task or service", "nope") }
	clitest.RefusedWith(t, 125, "no task", clitest.Run{Server: s}.Run(t, "exec", "nope", "ls"), "task or service nope: not found")
}

func TestExecPassesInputAndExitCode(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	var started *swarmv1.ExecStart
	s.OnExec = echoExec(&started)
	got := clitest.Run{Server: s, Stdin: strings.NewReader("hello\n")}.Run(t, "exec", "-i", "web", "cat")
	if got.Code != 6 || got.Out != "hello\n" || got.ErrOut != "bye\n" {
		t.Errorf("got %+v, want code 6, the input, and bye", got)
	}
	clitest.Refused(t, "-t", clitest.Run{Server: s}.Run(t, "exec", "-it", "web", "sh"), "the input device is not a terminal")
	s.OnExec = func(swarmv1.Control_ExecServer) error { return nil }
	clitest.RefusedWith(t, 125, "no code", clitest.Run{Server: s}.Run(t, "exec", "web", "sh"), "the session ended without an exit code")
}
