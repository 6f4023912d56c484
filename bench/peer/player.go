package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/scenarios/differential"
)

// Player plays the scripts of package differential on a cluster of dockerd.
type Player struct {
	docker *Docker
	killed map[string]bool
}

// NewPlayer returns a player of the cluster, whose hosts have the images in the archives then.
func NewPlayer(ctx context.Context, d *Docker, archives ...string) (*Player, error) {
	for _, h := range d.Hosts {
		for _, a := range archives {
			if _, err := h.docker(ctx, "load", "-i", a); err != nil {
				return nil, err
			}
		}
	}
	return &Player{docker: d, killed: map[string]bool{}}, nil
}

// Run implements differential.System. Docker must not ask a registry for the images, because there
// is none.
func (p *Player) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	if len(args) > 1 && args[0] == "service" && (args[1] == "create" || args[1] == "update") {
		args = slices.Insert(slices.Clone(args), 2, "--no-resolve-image")
	}
	h := p.docker.Hosts[slices.IndexFunc(p.docker.Hosts, func(h *Host) bool { return !p.killed[h.name] })]
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + h.socket}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ctx.Err() == nil {
		return "", &differential.Refusal{Message: strings.TrimSpace(stderr.String())}
	}
	return stdout.String(), err
}

// InspectTasks implements differential.System.
func (p *Player) InspectTasks() []string { return []string{"inspect", "--type", "task"} }

// Quiet implements differential.System. dockerd may take some seconds to begin with what a command
// asks for.
func (p *Player) Quiet() (satisfied, otherwise time.Duration) {
	return 2 * time.Second, 4 * time.Second
}

// Kill implements differential.System.
func (p *Player) Kill(ctx context.Context, name string) error {
	h, err := p.host(name)
	if err != nil {
		return err
	}
	p.killed[name] = true
	scope := dev.Scope{
		Dirs: []string{filepath.Join(p.docker.dir, name)}, Cgroups: []string{p.docker.cgroupOf(h)}, Pins: []string{p.docker.lab.NamespacePath(name)},
	}
	if err := scope.Sweep(ctx); err != nil {
		return err
	}
	_ = h.daemon.Wait() // It was killed.
	return nil
}

// Start implements differential.System.
func (p *Player) Start(ctx context.Context, name string) error {
	h, err := p.host(name)
	if err != nil {
		return err
	}
	// The daemon takes a file of a killed daemon for that of a running one.
	if err := os.Remove(filepath.Join(p.docker.dir, name, "pid")); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := p.docker.run(h); err != nil {
		return err
	}
	delete(p.killed, name)
	return testbed.Poll(ctx, "dockerd of "+name, func() bool { return h.Call(ctx, http.MethodGet, "/_ping", nil, nil) == nil })
}

func (p *Player) host(name string) (*Host, error) {
	for _, h := range p.docker.Hosts {
		if h.name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("no host %s", name)
}
