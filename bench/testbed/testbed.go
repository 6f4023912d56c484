// Package testbed has what the groups of command bench work with: a folder, a swarm cluster in
// network namespaces of this machine with helpers for its API, the processes of its hosts, and the
// journals of its daemons. It measures nothing itself; the caller decides what to time. It has no
// goroutines.
package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"swarm/dev"
)

// Env is the environment of a group.
type Env struct {
	// Binary is the swarm to measure, as an absolute path.
	Binary string
	// Dir is the group's own folder, which is removed afterwards.
	Dir string
	// Archive is the test image, swarm/hello:1, as an absolute path.
	Archive string
	// Rounds is the number of times that each measurement is repeated, at least 3.
	Rounds int
}

// Cgroup returns the cgroup for containers that are not in a playground. No other run has it.
func (e Env) Cgroup() string { return "/swarm-" + filepath.Base(e.Dir) }

// Sweep ends the processes that a group has left. It has no context, because it also runs after an
// interrupt.
func Sweep(s dev.Scope) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Sweep(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench: clean up:", err)
	}
}

// Poll calls try every 5 ms until it returns true, for at most 30 s. The period is the same for
// swarm and for what swarm is compared with.
func Poll(ctx context.Context, what string, try func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !try() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Tail returns the last n lines of a text.
func Tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
