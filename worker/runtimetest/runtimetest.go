// Package runtimetest tests the contract of engine.Runtime and engine.Executor. The tests of
// worker/simulated and of containerd call Run, and nothing else does. It starts goroutines
// only within a test.
package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Behaviour says what a container of the suite does once it has started.
type Behaviour struct {
	// Ends makes the container end by itself soon, with ExitCode. If it is not set, the container
	// runs until it is stopped.
	Ends     bool
	ExitCode int
	// Stubborn makes the container ignore SIGTERM.
	Stubborn bool
}

// System is a runtime to be tested.
type System struct {
	Runtime engine.Runtime
	// Executor is nil if there is none to test. Containers have the programs true, false, echo and
	// cat.
	Executor engine.Executor
	// Away makes the runtime's process go away, as if it was killed, while its containers run on.
	// The runtime is back when back returns. A second call of back does nothing.
	Away func() (back func())
	// Container returns the description of a new container, with a new id and an image that is
	// held.
	Container func(Behaviour) engine.Container
}

// limit bounds every wait of the suite. A correct runtime needs much less.
const limit = 30 * time.Second

// Run tests the contract. factory returns an empty system for each test, and cleans up after it
// with t.Cleanup.
func Run(t *testing.T, factory func(t *testing.T) System) {
	for _, c := range []struct {
		name string
		test func(*testing.T, suite)
	}{
		{"PrepareIsIdempotent", prepareIsIdempotent},
		{"StartNeedsPrepare", startNeedsPrepare},
		{"StartRunsOnce", startRunsOnce},
		{"UnknownImage", unknownImage},
		{"ExitCode", exitCode},
		{"WaitAfterExit", waitAfterExit},
		{"WaitEndsWithContext", waitEndsWithContext},
		{"Update", update},
		{"UpdateOfWhatDoesNotRun", updateOfWhatDoesNotRun},
		{"StopObeyed", stopObeyed},
		{"StopKillsAfterGrace", stopKillsAfterGrace},
		{"StopOfWhatDoesNotRun", stopOfWhatDoesNotRun},
		{"WaitAndStopAtOnce", waitAndStopAtOnce},
		{"RemoveKillsAndIsIdempotent", removeKillsAndIsIdempotent},
		{"List", list},
		{"AwayIsAnErrorOfItsOwn", awayIsAnErrorOfItsOwn},
		{"WaitGoesOnThroughAway", waitGoesOnThroughAway},
		{"StartWhenTheRuntimeGoesAway", startWhenTheRuntimeGoesAway},
		{"Exec", execRuns},
		{"ExecRefused", execRefused},
		{"DialRefused", dialRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			t.Cleanup(cancel)
			c.test(t, suite{System: factory(t), t: t, ctx: ctx})
		})
	}
}

type suite struct {
	System
	t   *testing.T
	ctx context.Context // of the one test; a suite lives no longer
}

func (s suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// started prepares and starts a container.
func (s suite) started(b Behaviour) (id string, pid uint32) {
	s.t.Helper()
	c := s.Container(b)
	s.must(s.Runtime.Prepare(s.ctx, c))
	st, err := s.Runtime.Start(s.ctx, c.Task.Id)
	s.must(err)
	return c.Task.Id, st.Pid
}

func (s suite) wait(id string) engine.Exit {
	s.t.Helper()
	e, err := s.Runtime.Wait(s.ctx, id)
	s.must(err)
	return e
}

func (s suite) find(id string) (engine.Found, bool) {
	s.t.Helper()
	all, err := s.Runtime.List(s.ctx)
	s.must(err)
	i := slices.IndexFunc(all, func(f engine.Found) bool { return f.TaskID == id })
	if i < 0 {
		return engine.Found{}, false
	}
	return all[i], true
}

func prepareIsIdempotent(t *testing.T, s suite) {
	c := s.Container(Behaviour{})
	s.must(s.Runtime.Prepare(s.ctx, c))
	s.must(s.Runtime.Prepare(s.ctx, c))
	st, err := s.Runtime.Start(s.ctx, c.Task.Id)
	s.must(err)
	s.must(s.Runtime.Prepare(s.ctx, c))
	if f, ok := s.find(c.Task.Id); !ok || !f.Running || f.Pid != st.Pid {
		t.Errorf("Prepare disturbed a running container: %+v, want pid %d", f, st.Pid)
	}
	s.must(s.Runtime.Remove(s.ctx, c.Task.Id))
}

func startNeedsPrepare(t *testing.T, s suite) {
	if _, err := s.Runtime.Start(s.ctx, s.Container(Behaviour{}).Task.Id); !errdefs.IsNotFound(err) {
		t.Errorf("Start of what was not prepared: %v, want not found", err)
	}
}

func startRunsOnce(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{})
	if _, err := s.Runtime.Start(s.ctx, id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second Start of a running container: %v, want failed precondition", err)
	}
	s.must(s.Runtime.Stop(s.ctx, id, "", 0))
	if _, err := s.Runtime.Start(s.ctx, id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start of a container that has run: %v, want failed precondition", err)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func unknownImage(t *testing.T, s suite) {
	c := s.Container(Behaviour{})
	c.Revision = c.Revision.CloneVT()
	c.Spec().Image = "registry.invalid/nobody/has:this@sha256:" + strings.Repeat("0", 64)
	if err := s.Runtime.Prepare(s.ctx, c); !errdefs.IsNotFound(err) {
		t.Errorf("Prepare with an image that is not held: %v, want not found", err)
	}
	s.must(s.Runtime.Remove(s.ctx, c.Task.Id))
}

func exitCode(t *testing.T, s suite) {
	for _, code := range []int{0, 3, 255} {
		id, _ := s.started(Behaviour{Ends: true, ExitCode: code})
		e := s.wait(id)
		if e.Code != code || e.CodeUnknown || e.OOM {
			t.Errorf("exit of a container that ends with %d: %+v", code, e)
		}
		if age := time.Since(e.At); age < 0 || age > limit {
			t.Errorf("exit at %s, %s ago", e.At, age)
		}
		s.must(s.Runtime.Remove(s.ctx, id))
	}
}

func waitAfterExit(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{Ends: true, ExitCode: 4})
	first := s.wait(id)
	if again := s.wait(id); again.Code != first.Code || !again.At.Equal(first.At) {
		t.Errorf("second Wait: %+v, the first said %+v", again, first)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
	if _, err := s.Runtime.Wait(s.ctx, id); !errdefs.IsNotFound(err) {
		t.Errorf("Wait for what is removed: %v, want not found", err)
	}
}

func waitEndsWithContext(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{})
	ctx, cancel := context.WithCancel(s.ctx)
	go cancel()
	if _, err := s.Runtime.Wait(ctx, id); !errors.Is(err, context.Canceled) && !errdefs.IsCanceled(err) {
		t.Errorf("Wait after cancel: %v, want cancelled", err)
	}
	if f, _ := s.find(id); !f.Running {
		t.Error("the end of a Wait ended the container")
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func limits(nanoCPUs, memory, pids int64) *swarmv1.ResourceRequirements {
	return &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{NanoCpus: nanoCPUs, MemoryBytes: memory, Pids: proto.Int64(pids)}}
}

func update(t *testing.T, s suite) {
	id, pid := s.started(Behaviour{})
	for _, r := range []*swarmv1.ResourceRequirements{
		limits(5e8, 64<<20, 50), limits(5e8, 64<<20, 50), limits(1e9, 256<<20, 100), limits(0, 32<<20, 0), nil, limits(1e8, 0, 0),
	} {
		s.must(s.Runtime.Update(s.ctx, id, r))
		if f, ok := s.find(id); !ok || !f.Running || f.Pid != pid {
			t.Fatalf("after Update to %v: %+v, want pid %d", r, f, pid)
		}
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func updateOfWhatDoesNotRun(t *testing.T, s suite) {
	c := s.Container(Behaviour{Ends: true})
	id := c.Task.Id
	if err := s.Runtime.Update(s.ctx, id, limits(1e9, 0, 0)); !errdefs.IsNotFound(err) {
		t.Errorf("Update of what is not there: %v, want not found", err)
	}
	s.must(s.Runtime.Prepare(s.ctx, c))
	s.must(s.Runtime.Update(s.ctx, id, limits(1e9, 64<<20, 50)))
	_, err := s.Runtime.Start(s.ctx, id)
	s.must(err)
	s.wait(id)
	if err := s.Runtime.Update(s.ctx, id, limits(2e9, 0, 0)); !errdefs.IsNotFound(err) {
		t.Errorf("Update of what has ended: %v, want not found", err)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func stopObeyed(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{})
	began := time.Now()
	s.must(s.Runtime.Stop(s.ctx, id, "SIGTERM", limit))
	if took := time.Since(began); took > limit/2 {
		t.Errorf("stop of a container that obeys took %s", took)
	}
	if f, ok := s.find(id); !ok || f.Running {
		t.Errorf("after Stop: %+v, %v; want a container that does not run", f, ok)
	}
	if e := s.wait(id); e.CodeUnknown {
		t.Errorf("exit after Stop: %+v", e)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func stopKillsAfterGrace(t *testing.T, s suite) {
	const grace = 300 * time.Millisecond
	id, _ := s.started(Behaviour{Stubborn: true})
	began := time.Now()
	s.must(s.Runtime.Stop(s.ctx, id, "TERM", grace))
	if took := time.Since(began); took < grace {
		t.Errorf("killed after %s, within its grace of %s", took, grace)
	}
	if e := s.wait(id); e.Code != 137 {
		t.Errorf("exit of what was killed: %+v, want code 137", e)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func stopOfWhatDoesNotRun(t *testing.T, s suite) {
	c := s.Container(Behaviour{})
	s.must(s.Runtime.Stop(s.ctx, c.Task.Id, "", time.Second)) // is not there
	s.must(s.Runtime.Prepare(s.ctx, c))
	s.must(s.Runtime.Stop(s.ctx, c.Task.Id, "", time.Second)) // was not started
	s.must(s.Runtime.Remove(s.ctx, c.Task.Id))
	id, _ := s.started(Behaviour{Ends: true, ExitCode: 9})
	s.wait(id)
	s.must(s.Runtime.Stop(s.ctx, id, "", time.Second)) // has ended
	if e := s.wait(id); e.Code != 9 {
		t.Errorf("Stop changed how a container ended: %+v, want code 9", e)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func waitAndStopAtOnce(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{})
	type answer struct {
		exit engine.Exit
		err  error
	}
	waited := make(chan answer, 1)
	go func() {
		e, err := s.Runtime.Wait(s.ctx, id)
		waited <- answer{e, err}
	}()
	s.must(s.Runtime.Stop(s.ctx, id, "", limit))
	a := <-waited
	s.must(a.err)
	if again := s.wait(id); again.Code != a.exit.Code {
		t.Errorf("Wait during Stop says %+v, after it %+v", a.exit, again)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func removeKillsAndIsIdempotent(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{Stubborn: true})
	s.must(s.Runtime.Remove(s.ctx, id))
	s.must(s.Runtime.Remove(s.ctx, id))
	if f, ok := s.find(id); ok {
		t.Errorf("after Remove: %+v", f)
	}
	s.must(s.Runtime.Remove(s.ctx, s.Container(Behaviour{}).Task.Id)) // never was
}

func list(t *testing.T, s suite) {
	if all, err := s.Runtime.List(s.ctx); err != nil || len(all) != 0 {
		t.Fatalf("List of a new system: %v, %v", all, err)
	}
	running, pid := s.started(Behaviour{})
	ended, _ := s.started(Behaviour{Ends: true})
	s.wait(ended)
	prepared := s.Container(Behaviour{})
	s.must(s.Runtime.Prepare(s.ctx, prepared))
	for id, want := range map[string]engine.Found{
		running:          {TaskID: running, ServiceID: prepared.Task.ServiceId, Running: true, Pid: pid},
		ended:            {TaskID: ended, ServiceID: prepared.Task.ServiceId},
		prepared.Task.Id: {TaskID: prepared.Task.Id, ServiceID: prepared.Task.ServiceId},
	} {
		got, ok := s.find(id)
		if !got.Running {
			got.Pid = 0 // of what does not run it means nothing
		}
		if !ok || got != want {
			t.Errorf("List has %+v (%v), want %+v", got, ok, want)
		}
		s.must(s.Runtime.Remove(s.ctx, id))
	}
}

func awayIsAnErrorOfItsOwn(t *testing.T, s suite) {
	prepared := s.Container(Behaviour{})
	s.must(s.Runtime.Prepare(s.ctx, prepared))
	running, _ := s.started(Behaviour{})
	calls := []struct {
		name string
		call func() error
	}{
		{"Prepare", func() error { return s.Runtime.Prepare(s.ctx, prepared) }},
		{"Start", func() error { _, err := s.Runtime.Start(s.ctx, prepared.Task.Id); return err }},
		{"Update", func() error { return s.Runtime.Update(s.ctx, running, limits(1e9, 64<<20, 50)) }},
		{"Stop", func() error { return s.Runtime.Stop(s.ctx, running, "", limit) }},
		{"Remove", func() error { return s.Runtime.Remove(s.ctx, running) }},
		{"List", func() error { _, err := s.Runtime.List(s.ctx); return err }},
	}
	if s.Executor != nil {
		calls = slices.Insert(calls, 2, struct {
			name string
			call func() error
		}{"Exec", func() error {
			_, err := s.Executor.Exec(s.ctx, &swarmv1.ExecStart{TaskId: running, Command: []string{"true"}}, engine.ExecStreams{})
			return err
		}})
	}
	back := s.Away()
	defer back()
	for _, c := range calls {
		if err := c.call(); !errors.Is(err, engine.ErrRuntimeAway) || !errdefs.IsUnavailable(err) {
			t.Errorf("%s while the runtime is away: %v, want ErrRuntimeAway", c.name, err)
		}
	}
	back()
	for _, c := range calls {
		if err := c.call(); err != nil {
			t.Errorf("%s once the runtime is back: %v", c.name, err)
		}
	}
	s.must(s.Runtime.Remove(s.ctx, prepared.Task.Id))
}

func waitGoesOnThroughAway(t *testing.T, s suite) {
	id, _ := s.started(Behaviour{})
	waited := make(chan error, 1)
	go func() {
		_, err := s.Runtime.Wait(s.ctx, id)
		waited <- err
	}()
	back := s.Away()
	defer back()
	back()
	s.must(s.Runtime.Stop(s.ctx, id, "", limit))
	if err := <-waited; err != nil {
		t.Errorf("Wait through the absence of the runtime: %v", err)
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

// A container that starts while the runtime goes away runs, once, when Start is called again until
// there is an answer.
func startWhenTheRuntimeGoesAway(t *testing.T, s suite) {
	for range 3 {
		c := s.Container(Behaviour{})
		s.must(s.Runtime.Prepare(s.ctx, c))
		begun := make(chan error, 1)
		go func() {
			_, err := s.Runtime.Start(s.ctx, c.Task.Id)
			begun <- err
		}()
		back := s.Away()
		err := <-begun
		back()
		for errors.Is(err, engine.ErrRuntimeAway) {
			_, err = s.Runtime.Start(s.ctx, c.Task.Id)
		}
		if err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Start while the runtime goes away: %v, want nil, or failed precondition: it runs", err)
		}
		if f, ok := s.find(c.Task.Id); !ok || !f.Running {
			t.Errorf("container that was started while the runtime went away: %+v, %v; want one that runs", f, ok)
		}
		s.must(s.Runtime.Remove(s.ctx, c.Task.Id))
	}
}

func execRuns(t *testing.T, s suite) {
	if s.Executor == nil {
		t.Skip("no executor")
	}
	id, _ := s.started(Behaviour{})
	for _, c := range []struct {
		command []string
		stdin   string
		out     string
		code    int
	}{
		{[]string{"true"}, "", "", 0},
		{[]string{"false"}, "", "", 1},
		{[]string{"echo", "hello", "there"}, "", "hello there\n", 0},
		{[]string{"cat"}, "through\n", "through\n", 0},
	} {
		var out bytes.Buffer
		ran := false
		streams := engine.ExecStreams{Stdout: &out, Started: func() { ran = true }}
		if c.stdin != "" {
			streams.Stdin = strings.NewReader(c.stdin)
		}
		code, err := s.Executor.Exec(s.ctx, &swarmv1.ExecStart{TaskId: id, Command: c.command, Stdin: c.stdin != ""}, streams)
		s.must(err)
		if code != c.code || out.String() != c.out || !ran {
			t.Errorf("exec %v: code %d, output %q, started %v; want %d, %q", c.command, code, out.String(), ran, c.code, c.out)
		}
	}
	s.must(s.Runtime.Remove(s.ctx, id))
}

func execRefused(t *testing.T, s suite) {
	if s.Executor == nil {
		t.Skip("no executor")
	}
	run := func(id, program string) error {
		_, err := s.Executor.Exec(s.ctx, &swarmv1.ExecStart{TaskId: id, Command: []string{program}}, engine.ExecStreams{})
		return err
	}
	if err := run(s.Container(Behaviour{}).Task.Id, "true"); !errdefs.IsNotFound(err) {
		t.Errorf("exec in what is not there: %v, want not found", err)
	}
	ended, _ := s.started(Behaviour{Ends: true})
	s.wait(ended)
	if err := run(ended, "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in what has ended: %v, want failed precondition", err)
	}
	id, _ := s.started(Behaviour{})
	err := run(id, "/no/such/program")
	var refused *engine.CommandError
	if !errdefs.IsInvalidArgument(err) || !errors.As(err, &refused) || !refused.NotFound {
		t.Errorf("exec of a program that is not there: %v, want a CommandError of one that is not found", err)
	}
	s.must(s.Runtime.Remove(s.ctx, ended))
	s.must(s.Runtime.Remove(s.ctx, id))
}
