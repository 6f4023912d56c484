package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"swarm/internal/pause"
)

// The agent and its link exchange lines of JSON.

// request asks an agent to run a command.
type request struct {
	ID int
	// Boot is the boot id of the guest to which the request was sent. The agent ignores a request
	// that waited in the port while the guest was rebooted.
	Boot    string
	Argv    []string
	Timeout time.Duration
}

// reply is the result of a command. Without an ID it is the greeting of an agent.
type reply struct {
	ID   int
	Boot string
	Code int
	Out  []byte
	Err  []byte
	// Failed is the reason why the command did not run to its end.
	Failed string
}

// portName is the name of the serial port in the guest.
const portName = "swarm.agent"

// serveAgent runs the commands that the link requests, each in a goroutine, until the port closes.
func serveAgent(ctx context.Context) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	port, err := openPort(ctx)
	if err != nil {
		return err
	}
	defer port.Close()
	// A blocked read would delay a reboot for as long as systemd waits for a service to stop.
	defer context.AfterFunc(ctx, func() { _ = port.Close() })()
	a := agent{boot: strings.TrimSpace(string(boot)), port: port}
	// An empty line ends a line that an earlier agent may have left incomplete.
	if _, err := port.WriteString("\n"); err != nil {
		return err
	}
	if err := a.send(reply{Boot: a.boot}); err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	for lines := bufio.NewReader(port); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil || r.Boot != a.boot {
			continue
		}
		running.Go(func() {
			if err := a.send(execute(ctx, r)); err != nil {
				fmt.Fprintln(os.Stderr, "vm:", err)
			}
		})
	}
}

// openPort waits until udev has named the port.
func openPort(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		f, err := os.OpenFile("/dev/virtio-ports/"+portName, os.O_RDWR, 0)
		if !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		if err := pause.For(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

type agent struct {
	boot string

	mu   sync.Mutex // guards writes to port
	port *os.File
}

func (a *agent) send(r reply) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err = a.port.Write(append(line, '\n'))
	return err
}

func execute(ctx context.Context, r request) reply {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Dir = "/root"
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// A process that the command leaves behind may keep the output open. The command has ended when
	// its own process has.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	answer := reply{ID: r.ID, Code: cmd.ProcessState.ExitCode(), Out: out.Bytes(), Err: errOut.Bytes()}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) && !errors.Is(err, exec.ErrWaitDelay) {
		answer.Failed = err.Error()
	}
	return answer
}
