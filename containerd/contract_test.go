//go:build linux

package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"swarm/containerd"
	"swarm/internal/eventually"
	"swarm/worker/engine"
	"swarm/worker/runtimetest"
)

// The tests share one containerd. Each test has its own runtime, and so its own containers.
func TestRuntime_KeepsTheContract(t *testing.T) {
	n := newNode(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.System {
		n.T = t
		cfg := n.config()
		cfg.StateDir = filepath.Join(cfg.StateDir, filepath.Base(t.Name()))
		r, err := containerd.New(cfg, containerd.Deps{Log: n.Log(), Client: n.client})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			all, err := r.List(n.Ctx)
			for _, f := range all {
				err = errors.Join(err, r.Remove(n.Ctx, f.TaskID))
			}
			if err != nil {
				t.Error(err)
			}
		})
		ready := &readyRuntime{Runtime: r, n: n, logs: make(map[string]string)}
		away := func() func() {
			n.Kill()
			return sync.OnceFunc(func() {
				n.Start("")
				eventually.Nil(t, "connection to the runtime", func() error {
					_, err := r.List(n.Ctx)
					return err
				})
			})
		}
		return runtimetest.System{Runtime: ready, Executor: r, Away: away, Container: func(b runtimetest.Behaviour) engine.Container {
			script := "trap 'exit 0' TERM USR1"
			if b.Stubborn {
				script = "trap '' TERM USR1"
			}
			script += "; echo ready; "
			if b.Ends {
				script += fmt.Sprintf("exit %d", b.ExitCode)
			} else {
				script += "while :; do sleep 0.02; done"
			}
			c := n.container(script)
			ready.logs[c.Task.GetId()] = c.LogDir
			return c
		}}
	})
	n.T = t
}

// readyRuntime waits in Start until the container handles signals, because the kernel drops signals
// to a first process that does not handle them yet.
type readyRuntime struct {
	*containerd.Runtime
	n    *node
	logs map[string]string
}

func (r *readyRuntime) Start(ctx context.Context, id string) (engine.Started, error) {
	s, err := r.Runtime.Start(ctx, id)
	if err != nil {
		return s, err
	}
	eventually.Nil(r.n.T, "the container's first words", func() error {
		if r.n.read(filepath.Join(r.logs[id], engine.StdoutFile)) == "" {
			return errors.New("no output")
		}
		return nil
	})
	return s, nil
}
