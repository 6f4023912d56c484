package simulated_test

import (
	"fmt"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/runtimetest"
	"swarm/worker/simulated"
)

func TestRuntime_Contract(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.System {
		const ref = "docker.io/library/test:1@sha256:1"
		behaviours := map[string]runtimetest.Behaviour{}
		cfg := simulated.Config{
			Life: func(c engine.Container) (time.Duration, int, bool) {
				b := behaviours[c.Task.Id]
				return time.Millisecond, b.ExitCode, b.Ends
			},
			Obey: func(c engine.Container) time.Duration {
				if behaviours[c.Task.Id].Stubborn {
					return time.Hour
				}
				return 0
			},
		}
		images := simulated.NewImages()
		if _, err := images.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
			t.Fatal(err)
		}
		r := simulated.New(cfg, images)
		away := func() func() {
			r.SetAway(true)
			return func() { r.SetAway(false) }
		}
		return runtimetest.System{Runtime: r, Executor: r, Away: away, Container: func(b runtimetest.Behaviour) engine.Container {
			id := fmt.Sprintf("task%d", len(behaviours))
			behaviours[id] = b
			return engine.Container{
				Task:     &swarmv1.Task{Id: id, ServiceId: "s1"},
				Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: ref}}}},
			}
		}}
	})
}
