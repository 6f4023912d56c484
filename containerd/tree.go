//go:build linux

package containerd

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// killRounds bounds how often a container's processes are looked through for more that came of an exec: between a look and
// its kills, they may start others.
const killRounds = 10

// descent is where a process comes from.
type descent struct{ parent, session int }

// killTree kills the process with this number, which a container's exec started, and all that came of it: its children and
// theirs, and the processes of its session. runc makes each exec the leader of a session. A process escapes that has made a
// session of its own and has lost its parents before: nothing tells any more where it comes from.
func (r *Runtime) killTree(ctx context.Context, id string, leader int) error {
	family := map[int]bool{leader: true}
	for range killRounds {
		resp, err := r.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
		if err != nil {
			return ignoreNotFound(errgrpc.ToNative(err))
		}
		pids := make([]int, len(resp.Processes))
		for i, p := range resp.Processes {
			pids[i] = int(p.Pid)
		}
		found := kin(family, pids, descentOf)
		if len(found) == 0 {
			return nil
		}
		for _, pid := range found {
			killOne(pid, family)
		}
	}
	return nil
}

// kin returns those of pids that belong to the family and adds them to it, parents before children.
func kin(family map[int]bool, pids []int, descentOf func(pid int) (descent, bool)) []int {
	var found []int
	for more := true; more; {
		more = false
		for _, pid := range pids {
			d, ok := descentOf(pid)
			if ok && !slices.Contains(found, pid) && (family[pid] || family[d.parent] || family[d.session]) {
				family[pid], more = true, true
				found = append(found, pid)
			}
		}
	}
	return found
}

// killOne kills a process, unless its number has gone to another one since it was found.
func killOne(pid int, family map[int]bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // It has ended.
	}
	defer unix.Close(fd)
	if d, ok := descentOf(pid); ok && (family[d.parent] || family[d.session]) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // It may have ended.
	}
}

// descentOf reads /proc/PID/stat: "PID (NAME) STATE PARENT GROUP SESSION ...". A zombie has ended. NAME is the process's own
// choice and may hold anything.
func descentOf(pid int) (descent, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return descent{}, false
	}
	return parseDescent(string(text))
}

func parseDescent(stat string) (descent, bool) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 4 || fields[0] == "Z" || fields[0] == "X" {
		return descent{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return descent{}, false
	}
	session, err := strconv.Atoi(fields[3])
	return descent{parent, session}, err == nil
}
