//go:build linux

package dev

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Shell replaces this process by a command inside a host, by default the user's shell. SWARM_HOST
// names the host's daemon, and the playground's swarm program is first in PATH. Shell returns only
// if that fails.
func (p *Playground) Shell(host string, argv ...string) error {
	r, lab, err := p.inside(host)
	if err != nil {
		return err
	}
	env := r.shellEnv(host)
	if len(argv) == 0 {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		argv = []string{shell}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s in host %s: %w", argv[0], host, err)
	}
	return lab.Exec(host, path, argv, env)
}

// Command starts cmd inside a host with the environment of Shell. The caller waits for cmd.
func (p *Playground) Command(host string, cmd *exec.Cmd) error {
	r, lab, err := p.inside(host)
	if err != nil {
		return err
	}
	cmd.Env = append(r.shellEnv(host), cmd.Env...)
	return lab.Start(host, cmd)
}

// Do runs fn on a thread inside the host's network namespace.
func (p *Playground) Do(host string, fn func() error) error {
	_, lab, err := p.inside(host)
	if err != nil {
		return err
	}
	return lab.Do(host, fn)
}

func (p *Playground) inside(host string) (*record, *Lab, error) {
	r, err := load(p.name)
	if err != nil {
		return nil, nil, err
	}
	h, err := r.host(host)
	if err != nil {
		return nil, nil, err
	}
	if h.Off {
		return nil, nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("host %s is off: start it with `swarm dev start%s %s`", host, nameFlag(p.name), host))
	}
	lab, err := r.lab()
	return r, lab, err
}

func (r *record) shellEnv(host string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SWARM_") && !strings.HasPrefix(v, "PATH=") {
			env = append(env, v)
		}
	}
	return append(env, "PATH="+filepath.Dir(r.Binary)+":"+os.Getenv("PATH"), "SWARM_HOST=unix://"+r.socket(host))
}
