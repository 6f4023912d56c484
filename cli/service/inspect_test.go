package service_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// States of updates are spelled as Docker spells them, and no label of --pretty touches its value.
func TestServiceInspect_Words(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Services[0] = s.Services[0].CloneVT()
	s.Services[0].Service.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_ROLLBACK_COMPLETED, StartedAt: timestamppb.Now(), CompletedAt: timestamppb.Now()}
	s.Services[0].Revision.Spec.UpdateConfig = &swarmv1.UpdateConfig{Monitor: durationpb.New(5 * time.Second)}
	s.Services[0].Revision.Spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_ON_FAILURE, MaxAttempts: 3}
	pretty := clitest.Run{Server: s}.Run(t, "service", "inspect", "--pretty", "web").Out
	for _, want := range []string{"rollback_completed\n", " Monitoring Period: 5s\n", " Max failure ratio: 0\n", " Completed:", " Condition:     on-failure\n", " Max Attempts:  3\n"} {
		if !strings.Contains(pretty, want) {
			t.Errorf("got\n%swant %q", pretty, want)
		}
	}
	for _, args := range [][]string{{"inspect", "-f", "{{.UpdateStatus.State}}", "web"}, {"ls", "--format", "{{.UpdateStatus}}"}} {
		if got := (clitest.Run{Server: s}).Run(t, append([]string{"service"}, args...)...); got.Out != "rollback_completed\n" {
			t.Errorf("%v: got %+v", args, got)
		}
	}
}
