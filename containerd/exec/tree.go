//go:build linux

package exec

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

// killRounds is how many times killTree looks for processes, because the processes that it finds
// may start further ones before they are killed.
const killRounds = 10

// descent has the ids of a process's parent and session.
type descent struct{ parent, session int }

// killTree kills the process with the process id leader in a container, its descendants, and the
// processes of its session. runc makes each process that it starts the leader of a session.
// killTree cannot find a process that has made a new session and whose parents have ended, because
// the kernel does not record any more from which process it comes.
func (r *Runner) killTree(ctx context.Context, id string, leader int) error {
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

// kin returns the pids that descend from the family, parents before children, and adds them to the
// family.
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

// killOne kills a process, unless its process id has been reused since it was found.
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

// descentOf reads /proc/PID/stat: "PID (NAME) STATE PARENT GROUP SESSION ...". A zombie counts as
// ended. The process chooses NAME, which may contain any character.
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
