package differential

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"time"

	"swarm/dev"
)

// ours plays scripts on a cluster of swarm.
type ours struct {
	playground *dev.Playground
	binary     string

	mu     sync.Mutex // guards killed
	killed map[string]bool
}

func (o *ours) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	host, err := o.host()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, o.binary, append([]string{"-H", "unix://" + host.Socket}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ctx.Err() == nil {
		return "", &Refusal{Message: strings.TrimSpace(stderr.String())}
	}
	return stdout.String(), err
}

// host returns the first host that was not killed.
func (o *ours) host() (dev.Host, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range []string{"node1", "node2", "node3"} {
		if !o.killed[name] {
			return o.playground.Host(name)
		}
	}
	return dev.Host{}, errors.New("no host is left")
}

func (o *ours) InspectTasks() []string { return []string{"task", "inspect"} }

func (o *ours) Quiet() (satisfied, otherwise time.Duration) {
	return 600 * time.Millisecond, 1500 * time.Millisecond
}

func (o *ours) Kill(ctx context.Context, node string) error {
	o.set(node, true)
	return o.playground.Kill(ctx, node)
}

func (o *ours) Start(ctx context.Context, node string) error {
	defer o.set(node, false)
	return o.playground.Start(ctx, node)
}

func (o *ours) set(node string, killed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.killed[node] = killed
}
