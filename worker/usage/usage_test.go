//go:build linux

package usage

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	swarmv1 "swarm/proto/swarm/v1"
)

// thisProcess is the containers of a node with one task, whose only process is this test.
type thisProcess struct{}

func (thisProcess) Usage(_ context.Context, ids []string) (out []*swarmv1.TaskUsage, err error) {
	for _, id := range ids {
		out = append(out, &swarmv1.TaskUsage{TaskId: id, MemoryLimit: 1 << 62})
	}
	return out, nil
}

func (thisProcess) Processes(context.Context, string) ([]uint32, error) {
	const nobody = 1 << 30 // no process can have this id
	return []uint32{nobody, uint32(os.Getpid())}, nil
}

func TestServer_Usage(t *testing.T) {
	s := New(Deps{Containers: thisProcess{}, Traffic: func(context.Context) map[string]Traffic {
		return map[string]Traffic{"t1": {Received: 3, Sent: 4}}
	}})
	got, err := s.Usage(t.Context(), &swarmv1.NodeUsageRequest{TaskIds: []string{"t1"}})
	if err != nil {
		t.Fatal(err)
	}
	host := got.GetHost()
	if host.GetCpus() == 0 || host.GetCpu() == 0 || host.GetClock() == 0 || host.GetMemory() == 0 || host.GetMemory() >= host.GetMemoryLimit() {
		t.Errorf("host: got %v", host)
	}
	task := got.GetTasks()[0]
	if task.GetMemoryLimit() != host.GetMemoryLimit() || task.GetReceived() != 3 || task.GetSent() != 4 {
		t.Errorf("task: got %v, want the memory of the host as its limit", task)
	}
	if _, err := s.Usage(t.Context(), &swarmv1.NodeUsageRequest{TaskIds: []string{"../x"}}); err == nil {
		t.Error("an id that is a path was accepted")
	}
	simulated, err := New(Deps{}).Usage(t.Context(), &swarmv1.NodeUsageRequest{TaskIds: []string{"t1"}})
	if err != nil || simulated.GetHost() == nil || len(simulated.GetTasks()) != 0 {
		t.Errorf("simulated containers: got %v, %v", simulated, err)
	}
}

func TestServer_Processes(t *testing.T) {
	got, err := New(Deps{Containers: thisProcess{}}).Processes(t.Context(), &swarmv1.ProcessesRequest{Task: "t1"})
	if err != nil || len(got.GetProcesses()) != 1 {
		t.Fatalf("got %v, %v; want one process", got, err)
	}
	p := got.GetProcesses()[0]
	age := time.Since(p.GetStarted().AsTime())
	if p.GetPid() != uint32(os.Getpid()) || p.GetParent() != uint32(os.Getppid()) || p.GetCommand() == "" || p.GetUser() == "" || age < -time.Second || age > time.Hour {
		t.Errorf("got %v, started %s ago", p, age)
	}
}

func TestTTYName(t *testing.T) {
	for device, want := range map[uint64]string{0: "", unix.Mkdev(136, 3): "pts/3", unix.Mkdev(137, 1): "pts/257", unix.Mkdev(4, 1): "tty1", unix.Mkdev(8, 0): ""} {
		if got := ttyName(int(device)); got != want {
			t.Errorf("device %#x: got %q, want %q", device, got, want)
		}
	}
}
