//go:build linux

// Package usage tells managers what a node and its containers use at this moment, and which
// processes run in a container. It serves swarmv1.NodeStats.
//
// The package keeps no state and starts no goroutine: each answer has counters, and whoever shows
// rates subtracts two answers. So nothing is measured while nobody looks, and any number of people
// may look at the same time. adapter/member makes the Server.
package usage

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// Containers are the containers of a node. containerd.Runtime implements it.
type Containers interface {
	// Usage returns what the containers of these tasks use, without their traffic. Containers that
	// do not run are missing in the result. A container without a limit of memory may have any
	// limit that is larger than the memory of the host.
	Usage(ctx context.Context, taskIDs []string) ([]*swarmv1.TaskUsage, error)
	// Processes returns the ids of the processes in the container of a task. ErrNotFound: the
	// container does not run.
	Processes(ctx context.Context, taskID string) ([]uint32, error)
}

// Traffic is what a task received and sent, in bytes.
type Traffic struct{ Received, Sent uint64 }

// Deps are what a Server needs.
type Deps struct {
	// Containers is nil if containers are simulated. The Server then knows the host only.
	Containers Containers
	// Traffic returns the traffic of the tasks of this node, by id. Nil: there are no networks.
	Traffic func(ctx context.Context) map[string]Traffic
}

// Server implements swarmv1.NodeStatsServer. Several goroutines may call its methods.
type Server struct {
	swarmv1.UnimplementedNodeStatsServer
	deps Deps
}

// New makes a Server.
func New(deps Deps) *Server { return &Server{deps: deps} }

// Usage implements swarmv1.NodeStatsServer.
func (s *Server) Usage(ctx context.Context, req *swarmv1.NodeUsageRequest) (*swarmv1.NodeUsageResponse, error) {
	for _, id := range req.GetTaskIds() {
		if err := ident.CheckKey("task", id); err != nil {
			return nil, err
		}
	}
	host, err := hostUsage()
	if err != nil {
		return nil, fmt.Errorf("usage of the host: %w", err)
	}
	out := &swarmv1.NodeUsageResponse{Host: host}
	if s.deps.Containers == nil || len(req.GetTaskIds()) == 0 {
		return out, nil
	}
	if out.Tasks, err = s.deps.Containers.Usage(ctx, req.GetTaskIds()); err != nil {
		return nil, err
	}
	var traffic map[string]Traffic
	if s.deps.Traffic != nil {
		traffic = s.deps.Traffic(ctx)
	}
	for _, t := range out.Tasks {
		t.Received, t.Sent = traffic[t.GetTaskId()].Received, traffic[t.GetTaskId()].Sent
		if t.GetMemoryLimit() == 0 || t.GetMemoryLimit() > host.GetMemoryLimit() {
			t.MemoryLimit = host.GetMemoryLimit()
		}
	}
	return out, nil
}

// hostUsage reads the counters of the host.
func hostUsage() (*swarmv1.HostUsage, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	stat, err := fs.Stat()
	if err != nil {
		return nil, err
	}
	memory, err := fs.Meminfo()
	if err != nil {
		return nil, err
	}
	load, err := fs.LoadAvg()
	if err != nil {
		return nil, err
	}
	t := stat.CPUTotal
	busy := t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ + t.Steal // seconds; User has Guest in it
	u := &swarmv1.HostUsage{Clock: now.UnixNano(), Cpus: uint32(len(stat.CPU)), Cpu: uint64(busy * 1e9), Load: load.Load1}
	if memory.MemTotalBytes != nil {
		u.MemoryLimit = *memory.MemTotalBytes
	}
	if memory.MemAvailableBytes != nil && *memory.MemAvailableBytes < u.GetMemoryLimit() {
		u.Memory = u.GetMemoryLimit() - *memory.MemAvailableBytes
	}
	return u, nil
}

// Processes implements swarmv1.NodeStatsServer. Processes are ordered by their ids.
func (s *Server) Processes(ctx context.Context, req *swarmv1.ProcessesRequest) (*swarmv1.ProcessesResponse, error) {
	if s.deps.Containers == nil {
		return nil, fmt.Errorf("processes: the containers of this node are simulated: %w", errdefs.ErrNotImplemented)
	}
	if err := ident.CheckKey("task", req.GetTask()); err != nil {
		return nil, err
	}
	pids, err := s.deps.Containers.Processes(ctx, req.GetTask())
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ProcessesResponse{TaskId: req.GetTask()}
	if n := len(pids); n > bounds.MaxProcesses {
		pids, out.More = pids[:bounds.MaxProcesses], uint32(n-bounds.MaxProcesses)
	}
	names := map[uint64]string{}
	for _, pid := range pids {
		if p, err := process(fs, int(pid), names); err == nil { // An error means that it has just ended.
			out.Processes = append(out.Processes, p)
		}
	}
	return out, nil
}

// process reads what the kernel says about a process. names has the names of the users that were
// looked up before.
func process(fs procfs.FS, pid int, names map[uint64]string) (*swarmv1.Process, error) {
	p, err := fs.Proc(pid)
	if err != nil {
		return nil, err
	}
	stat, err := p.Stat()
	if err != nil {
		return nil, err
	}
	status, err := p.NewStatus()
	if err != nil {
		return nil, err
	}
	started, err := stat.StartTime()
	if err != nil {
		return nil, err
	}
	words, err := p.CmdLine()
	if err != nil {
		return nil, err
	}
	command := strings.Join(words, " ")
	if command == "" {
		command = "[" + stat.Comm + "]"
	}
	cpu := stat.CPUTime()
	began := time.Unix(0, int64(started*float64(time.Second)))
	out := &swarmv1.Process{
		User: userName(status.UIDs[1], names), Pid: uint32(stat.PID), Parent: uint32(stat.PPID), Started: timestamppb.New(began),
		Cpu: uint64(cpu * 1e9), Tty: ttyName(stat.TTY), Command: bounds.Text(command, bounds.MaxCommand),
	}
	if age := time.Since(began).Seconds(); age > 0 {
		out.Percent = uint32(cpu / age * 100)
	}
	return out, nil
}

func userName(id uint64, names map[uint64]string) string {
	name, ok := names[id]
	if !ok {
		name = strconv.FormatUint(id, 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		names[id] = name
	}
	return name
}

// ttyName returns the name of a terminal's device, as ps does, or "" for none.
func ttyName(device int) string {
	const (
		ttyMajor = 4
		ptsFirst = 136 // The majors 136 to 143 are those of pseudo terminals.
		ptsLast  = 143
		perMajor = 1 << 8
	)
	major, minor := unix.Major(uint64(device)), unix.Minor(uint64(device))
	switch {
	case major >= ptsFirst && major <= ptsLast:
		return fmt.Sprintf("pts/%d", minor+(major-ptsFirst)*perMajor)
	case major == ttyMajor && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	}
	return ""
}
