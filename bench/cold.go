package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
)

// cold measures the time from an empty folder to the first service RUNNING, of swarm and of dockerd
// in turn. The time to load the image is subtracted from both, because it depends on the archive's
// size.
func cold(ctx context.Context, e testbed.Env) error {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return errors.New("no dockerd to compare with: `make deps-bench` installs Debian's docker.io")
	}
	var ours, dockers figure.Times
	for i := range e.Rounds {
		took, err := coldRound(ctx, e, i, "ours", coldSwarm)
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		ours = append(ours, took)
		if took, err = coldRound(ctx, e, i, "docker", coldDocker); err != nil {
			return fmt.Errorf("dockerd: %w", err)
		}
		dockers = append(dockers, took)
	}
	figure.Print("cold_start_s", ours.Median().Seconds(), "s", fmt.Sprintf("daemon, init, first service RUNNING; median of %s", ours.Seconds()))
	figure.Print("cold_start_vs_docker", figure.TimesRatio(ours, dockers), "x", "to dockerd, swarm init, first service RUNNING in the same run: "+dockers.Seconds())
	return nil
}

// host is one network namespace and the daemon in it.
type host struct {
	lab     *dev.Lab
	dir     string
	cgroup  string // of the containers, ours or dockerd's
	daemon  *exec.Cmd
	log     bytes.Buffer
	loading time.Duration
}

// coldRound makes a host, calls do in it, and removes the host. It returns the time that do took,
// less the time to load the image.
func coldRound(ctx context.Context, e testbed.Env, i int, who string, do func(context.Context, testbed.Env, *host) error) (time.Duration, error) {
	dir := filepath.Join(e.Dir, fmt.Sprintf("%s%d", who[:1], i))
	lab, err := dev.NewLab(dev.LabConfig{Dir: filepath.Join(dir, "ns"), Name: "cold", Subnet: netip.MustParsePrefix("10.217.0.0/24")})
	if err != nil {
		return 0, err
	}
	h := &host{lab: lab, dir: dir, cgroup: e.Cgroup()}
	defer h.close()
	if err := lab.AddHost("h", netip.MustParseAddr("10.217.0.2")); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := do(ctx, e, h); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, testbed.Tail(h.log.String(), 20))
	}
	return time.Since(began) - h.loading, nil
}

// close ends the daemon and everything that it has started, and removes the round's folder.
func (h *host) close() {
	if h.daemon != nil && h.daemon.Process != nil {
		_ = h.daemon.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() {
			_ = h.daemon.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = h.daemon.Process.Kill()
			<-done
		}
	}
	testbed.Sweep(dev.Scope{Dirs: []string{h.dir}, Cgroups: []string{h.cgroup}, Pins: []string{h.lab.NamespacePath("h")}})
	if err := h.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove the host:", err)
	}
	if err := os.RemoveAll(h.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove its files:", err)
	}
}

func (h *host) start(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = &h.log, &h.log
	h.daemon = cmd
	return h.lab.Start("h", cmd)
}

// command runs a client in the host until it ends.
func (h *host) command(ctx context.Context, name string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.lab.Start("h", cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return nil
}

// load runs a client that loads the image, and records how long that took.
func (h *host) load(ctx context.Context, name string, args ...string) error {
	began := time.Now()
	err := h.command(ctx, name, args...)
	h.loading = time.Since(began)
	return err
}

func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func coldSwarm(ctx context.Context, e testbed.Env, h *host) error {
	state, run := filepath.Join(h.dir, "state"), filepath.Join(h.dir, "run")
	socket := filepath.Join(run, "swarm.sock")
	if err := h.start(exec.Command(e.Binary, "daemon", "--state-dir", state, "--run-dir", run, "--cgroup-parent", h.cgroup)); err != nil {
		return err
	}
	if err := testbed.Poll(ctx, "the daemon", func() bool { return answers(socket) }); err != nil {
		return err
	}
	at := func(args ...string) []string { return append([]string{"-H", "unix://" + socket}, args...) }
	if err := h.command(ctx, e.Binary, at("init", "--advertise-addr", "10.217.0.2")...); err != nil {
		return err
	}
	if err := h.load(ctx, e.Binary, at("image", "load", "-i", e.Archive)...); err != nil {
		return err
	}
	if err := h.command(ctx, e.Binary, at("service", "create", "--detach", "--name", "first", "swarm/hello:1")...); err != nil {
		return err
	}
	return testbed.Poll(ctx, "the first task", func() bool {
		out, err := exec.Command(e.Binary, at("service", "ls", "--format", "{{.Replicas}}")...).Output()
		return err == nil && strings.TrimSpace(string(out)) == "1/1"
	})
}

func coldDocker(ctx context.Context, e testbed.Env, h *host) error {
	socket := filepath.Join(h.dir, "d.sock")
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	if err := h.start(exec.Command("dockerd", "--data-root", filepath.Join(h.dir, "data"), "--exec-root", filepath.Join(h.dir, "exec"),
		"--pidfile", filepath.Join(h.dir, "pid"), "--cgroup-parent", h.cgroup, "-H", "unix://"+socket)); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	if err := testbed.Poll(ctx, "dockerd", func() bool {
		answer, err := client.Get("http://docker/_ping")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	}); err != nil {
		return err
	}
	at := func(args ...string) []string { return append([]string{"-H", "unix://" + socket}, args...) }
	if err := h.command(ctx, "docker", at("swarm", "init", "--advertise-addr", "10.217.0.2")...); err != nil {
		return err
	}
	if err := h.load(ctx, "docker", at("load", "-i", e.Archive)...); err != nil {
		return err
	}
	if err := h.command(ctx, "docker", at("service", "create", "--detach", "--no-resolve-image", "--name", "first", "swarm/hello:1")...); err != nil {
		return err
	}
	return testbed.Poll(ctx, "the first task", func() bool {
		answer, err := client.Get("http://docker/tasks")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		var tasks []struct{ Status struct{ State string } }
		return json.NewDecoder(answer.Body).Decode(&tasks) == nil && len(tasks) == 1 && tasks[0].Status.State == "running"
	})
}
