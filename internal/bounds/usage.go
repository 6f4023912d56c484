package bounds

import (
	"math"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxProcesses is the number of processes of a container that are shown. MaxCommand is the
	// length of the command of each, in bytes.
	MaxProcesses = 512
	MaxCommand   = 512

	maxProcessesBytes = 256 << 10
)

// Usage returns the part of the answer of a node about its usage that may be shown: that of the
// tasks that it was asked for, each once.
func Usage(u *swarmv1.NodeUsageResponse, tasks []string) *swarmv1.NodeUsageResponse {
	left := make(map[string]bool, len(tasks))
	for _, id := range tasks {
		left[id] = true
	}
	out := &swarmv1.NodeUsageResponse{Host: hostUsage(u.GetHost())}
	out.Tasks = pick(u.GetTasks(), len(tasks), func(t *swarmv1.TaskUsage) (*swarmv1.TaskUsage, bool) {
		ok := left[t.GetTaskId()]
		delete(left, t.GetTaskId())
		return &swarmv1.TaskUsage{
			TaskId: t.GetTaskId(), Clock: t.GetClock(), Cpu: t.GetCpu(), Memory: t.GetMemory(), MemoryLimit: t.GetMemoryLimit(), Pids: t.GetPids(),
			Received: t.GetReceived(), Sent: t.GetSent(), BlockRead: t.GetBlockRead(), BlockWritten: t.GetBlockWritten(),
		}, ok
	})
	return out
}

func hostUsage(h *swarmv1.HostUsage) *swarmv1.HostUsage {
	if h == nil {
		return nil
	}
	out := &swarmv1.HostUsage{Clock: h.GetClock(), Cpus: h.GetCpus(), Cpu: h.GetCpu(), Memory: h.GetMemory(), MemoryLimit: h.GetMemoryLimit()}
	if load := h.GetLoad(); load >= 0 && !math.IsInf(load, 0) { // NaN is not >= 0.
		out.Load = load
	}
	return out
}

// Processes returns the part of the answer of a node about the processes of a task that may be
// shown.
func Processes(p *swarmv1.ProcessesResponse, task string) *swarmv1.ProcessesResponse {
	left := maxProcessesBytes
	out := &swarmv1.ProcessesResponse{TaskId: task, More: p.GetMore()}
	out.Processes = pick(p.GetProcesses(), MaxProcesses, fits(&left, func(p *swarmv1.Process) (*swarmv1.Process, bool) {
		return &swarmv1.Process{
			User: Text(p.GetUser(), maxWord), Pid: p.GetPid(), Parent: p.GetParent(), Started: instant(p.GetStarted()), Cpu: p.GetCpu(),
			Tty: Text(p.GetTty(), maxWord), Command: Text(p.GetCommand(), MaxCommand), Percent: p.GetPercent(),
		}, true
	}))
	return out
}
