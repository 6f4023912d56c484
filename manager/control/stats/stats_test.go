package stats_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/transport"
	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// fakeNode has a container for each task that it is asked for. It also claims to have a container
// of another node.
type fakeNode struct {
	swarmv1.UnimplementedNodeStatsServer
}

func (fakeNode) Usage(_ context.Context, r *swarmv1.NodeUsageRequest) (*swarmv1.NodeUsageResponse, error) {
	out := &swarmv1.NodeUsageResponse{Host: &swarmv1.HostUsage{Cpus: 2}, Tasks: []*swarmv1.TaskUsage{{TaskId: "foreign", Pids: 1}}}
	for _, id := range r.GetTaskIds() {
		out.Tasks = append(out.Tasks, &swarmv1.TaskUsage{TaskId: id, Pids: 5}, &swarmv1.TaskUsage{TaskId: id, Pids: 6})
	}
	return out, nil
}

func (fakeNode) Processes(_ context.Context, r *swarmv1.ProcessesRequest) (*swarmv1.ProcessesResponse, error) {
	return &swarmv1.ProcessesResponse{TaskId: "of another task", Processes: []*swarmv1.Process{{Pid: 7, Command: "a\x1b[31m" + r.GetTask()}}}, nil
}

type rig struct {
	*controltest.Rig
	stats swarmv1.StatsClient
	away  string // the id of a node that cannot be reached
}

func newRig(t *testing.T) *rig {
	conn := controltest.Serve(t, controltest.NodeInfo(controltest.Self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterNodeStatsServer(s, fakeNode{}) },
		func(context.Context, string) error { return nil })
	r := &rig{}
	r.Rig = controltest.New(t, func(d *control.Deps) {
		d.Conn = func(id string) (grpc.ClientConnInterface, error) {
			if id == r.away {
				return nil, errors.New("no route to host")
			}
			return conn, nil
		}
	})
	r.stats = swarmv1.NewStatsClient(r.Dial(transport.AuthInfo{Local: &transport.LocalUser{}}))
	return r
}

// watch returns the first two rounds, each as one word for each task: its name, and whether its
// usage is known.
func (r *rig) watch(req *swarmv1.WatchStatsRequest) (rounds []string, took time.Duration, err error) {
	ctx, cancel := context.WithCancel(r.T.Context())
	defer cancel()
	stream, err := r.stats.WatchStats(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	for range 2 {
		m, err := stream.Recv()
		if err != nil {
			return rounds, 0, err
		}
		var words []string
		for _, t := range m.GetTasks() {
			word := t.GetName()
			if t.GetUsage().GetPids() == 5 {
				word += "+"
			}
			words = append(words, word)
		}
		for _, n := range m.GetNodes() {
			if n.GetError() != "" {
				words = append(words, n.GetName()+": "+n.GetError())
			}
		}
		rounds = append(rounds, strings.Join(words, " "))
	}
	return rounds, time.Since(began), nil
}

func TestWatchStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		near := r.AddNode("near")
		r.away = r.AddNode("far")
		for _, name := range []string{"web", "db"} {
			r.Commit(table.Create(&swarmv1.Service{Id: name, Name: name, Revision: 1}), table.Create(&swarmv1.Revision{ServiceId: name, Number: 1}))
		}
		r.AddTask("web", near, 1)
		r.AddTask("web", r.away, 2)
		r.AddTask("db", near, 1)
		ended := r.AddTask("web", near, 3)
		st := r.Store.View().Status(ended).CloneVT()
		st.State = swarmv1.TaskState_FAILED
		r.Commit(table.Put(st))
		const far = " far: no route to host"
		for name, tc := range map[string]struct {
			req  *swarmv1.WatchStatsRequest
			want string
		}{
			"everything":         {&swarmv1.WatchStatsRequest{}, "db.1+ web.1+ web.2" + far},
			"all":                {&swarmv1.WatchStatsRequest{All: true}, "db.1+ web.1+ web.2 web.3" + far},
			"a service":          {&swarmv1.WatchStatsRequest{Refs: []string{"web"}}, "web.1+ web.2" + far},
			"two, one of a node": {&swarmv1.WatchStatsRequest{Refs: []string{"web", "db.1"}, Nodes: []string{"near"}}, "db.1+ web.1+"},
			"an ended task":      {&swarmv1.WatchStatsRequest{Refs: []string{ended}, Nodes: []string{"near"}}, "web.3"},
		} {
			got, took, err := r.watch(tc.req)
			if err != nil || !slices.Equal(got, []string{tc.want, tc.want}) || took != time.Second {
				t.Errorf("%s: got %q after %s, %v; want twice %q after 1s", name, got, took, err, tc.want)
			}
		}
		for _, req := range []*swarmv1.WatchStatsRequest{{Refs: []string{"nosuch"}}, {Nodes: []string{"nosuch"}}} {
			if _, _, err := r.watch(req); !errdefs.IsNotFound(err) {
				t.Errorf("%v: got %v, want not found", req, err)
			}
		}
		processes, err := r.stats.GetProcesses(t.Context(), &swarmv1.ProcessesRequest{Task: "db"})
		if err != nil || processes.GetTaskId() == "of another task" || len(processes.GetProcesses()) != 1 || strings.ContainsRune(processes.GetProcesses()[0].GetCommand(), 0x1b) {
			t.Errorf("processes: got %v, %v", processes, err)
		}
		if _, err := r.stats.GetProcesses(t.Context(), &swarmv1.ProcessesRequest{Task: ended}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("processes of an ended task: got %v", err)
		}
	})
}
