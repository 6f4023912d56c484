//go:build linux

package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies a process. A PID is not enough, because the kernel uses it again after the
// process has ended.
type process struct {
	PID int
	// Start is the start time of the process in ticks since boot.
	Start uint64
}

// stat is a part of /proc/PID/stat.
type stat struct {
	process
	parent int
	state  byte
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

// parseStat parses /proc/PID/stat. The second field, the name in parentheses, may have any
// character.
func parseStat(line string) (stat, error) {
	malformed := fmt.Errorf("malformed process status %q", line)
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, malformed
	}
	rest := strings.Fields(line[end+1:])
	if len(rest) < 20 {
		return stat{}, malformed
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(line[:open]))
	parent, err2 := strconv.Atoi(rest[1])
	start, err3 := strconv.ParseUint(rest[19], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return stat{}, malformed
	}
	return stat{process: process{pid, start}, parent: parent, state: rest[0][0]}, nil
}

// identifyProcess returns the process that has the PID now.
func identifyProcess(pid int) (process, error) {
	s, err := readStat(pid)
	return s.process, err
}

// alive reports whether the process holds files and locks. A zombie does not: it has ended, and
// only its parent has not reaped it. But if the main thread is a zombie and another thread has not
// ended yet, because it is in a slow system call, the process still holds its files and locks.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	s, err := readStat(p.PID)
	if err != nil || s.Start != p.Start || s.state == 'X' {
		return false
	}
	return s.state != 'Z' || threads(p.PID) > 1
}

// threads returns the number of threads of a process.
func threads(pid int) int {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0
	}
	return len(tasks)
}

// is reports whether the PID still belongs to this process, dead or alive.
func (p process) is() bool {
	s, err := readStat(p.PID)
	return err == nil && s.Start == p.Start
}

// signal sends a signal through a pidfd, so that no other process with the PID gets it.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// wait returns when the process has ended. It reaps a child of this process.
func (p process) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		// The end of the first thread is not enough, because the other threads may hold files and
		// locks.
		for ended := !p.is(); !ended; {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("process %d has not ended: %w", p.PID, err)
			}
			// Wait only for a short time, to notice when ctx ends.
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for process %d: %w", p.PID, err)
			}
			ended = n > 0
		}
	} else if !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	p.reap()
	return nil
}

// reap reaps a child of this process. It does nothing for other processes.
func (p process) reap() {
	if s, err := readStat(p.PID); err == nil && s.Start == p.Start && s.parent == os.Getpid() {
		_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
	}
}

// kill ends the process and waits for it.
func (p process) kill(ctx context.Context, sig unix.Signal) error {
	if err := p.signal(sig); err != nil {
		return err
	}
	return p.wait(ctx)
}

// killAll kills every process that find returns, and repeats this until find returns none, because
// the processes may fork meanwhile.
func killAll(ctx context.Context, find func() ([]process, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		found, err := find()
		if err != nil || len(found) == 0 {
			return err
		}
		var errs []error
		for _, p := range found {
			errs = append(errs, p.signal(unix.SIGKILL))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, p := range found {
			if err := p.wait(ctx); err != nil {
				return err
			}
		}
	}
}

// environHas reports whether a process has an environment entry NAME=value.
func environHas(pid int, entry string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if string(v) == entry {
			return true
		}
	}
	return false
}
