package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/dev"
)

// peerSubnet is where Docker's hosts are.
var peerSubnet = netip.MustParsePrefix("10.218.0.0/24")

// dockerCluster is hosts with a dockerd each, in Swarm mode.
type dockerCluster struct {
	lab    *dev.Lab
	dir    string
	cgroup string // of the containers
	hosts  []*dockerHost
}

type dockerHost struct {
	name, socket string
	address      netip.Addr
	daemon       *exec.Cmd
	log          bytes.Buffer
	http         *http.Client
}

// newDockerCluster makes hosts, of which some are managers, with the image on each.
func newDockerCluster(ctx context.Context, e env, nodes, managers int) (*dockerCluster, error) {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nil, errors.New("no dockerd to compare with: `make deps-bench` installs Debian's docker.io")
	}
	d := &dockerCluster{dir: filepath.Join(e.dir, "d"), cgroup: e.cgroup()}
	lab, err := dev.NewLab(dev.LabConfig{Dir: filepath.Join(d.dir, "ns"), Name: "peer", Subnet: peerSubnet})
	if err != nil {
		return nil, err
	}
	d.lab = lab
	if err := d.raise(ctx, e, nodes, managers); err != nil {
		if len(d.hosts) > 0 {
			err = fmt.Errorf("%w\n%s", err, tail(d.hosts[len(d.hosts)-1].log.String(), 20))
		}
		d.close()
		return nil, fmt.Errorf("dockerd: %w", err)
	}
	return d, nil
}

func (d *dockerCluster) raise(ctx context.Context, e env, nodes, managers int) error {
	address := peerSubnet.Addr().Next()
	for i := range nodes {
		address = address.Next()
		h := &dockerHost{name: fmt.Sprintf("d%d", i+1), address: address}
		d.hosts = append(d.hosts, h)
		if err := d.start(h); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, h := range d.hosts {
		g.Go(func() error {
			if err := poll(ctx, "dockerd of "+h.name, func() bool { return h.call(ctx, http.MethodGet, "/_ping", nil, nil) == nil }); err != nil {
				return err
			}
			_, err := h.docker(ctx, "load", "-i", e.archive)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return d.join(ctx, managers)
}

// start runs a dockerd in the host, with a /run of its own: what it keeps at fixed places, such as the lock of iptables, is
// not shared. Its mounts go with its last process.
func (d *dockerCluster) start(h *dockerHost) error {
	if err := d.lab.AddHost(h.name, h.address); err != nil {
		return err
	}
	own := filepath.Join(d.dir, h.name)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	h.socket = filepath.Join(own, "sock")
	h.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.socket)
	}}}
	h.daemon = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `mount -t tmpfs none /run && exec "$0" "$@"`,
		"dockerd", "--data-root", filepath.Join(own, "data"), "--exec-root", filepath.Join(own, "exec"),
		"--pidfile", filepath.Join(own, "pid"), "--cgroup-parent", d.cgroup, "-H", "unix://"+h.socket)
	h.daemon.Stdout, h.daemon.Stderr = &h.log, &h.log
	return d.lab.Start(h.name, h.daemon)
}

func (d *dockerCluster) join(ctx context.Context, managers int) error {
	first := d.hosts[0]
	if _, err := first.docker(ctx, "swarm", "init", "--advertise-addr", first.address.String()); err != nil {
		return err
	}
	for i, h := range d.hosts[1:] {
		role := "worker"
		if i+1 < managers {
			role = "manager"
		}
		token, err := first.docker(ctx, "swarm", "join-token", "-q", role)
		if err != nil {
			return err
		}
		if _, err := h.docker(ctx, "swarm", "join", "--advertise-addr", h.address.String(), "--token", token, first.address.String()+":2377"); err != nil {
			return err
		}
	}
	return nil
}

// processes returns dockerd and its containerd.
func (d *dockerCluster) processes(h *dockerHost) (out []process, err error) {
	own := filepath.Join(d.dir, h.name)
	for kind, file := range map[kind]string{
		daemonProcess: filepath.Join(own, "pid"), runtimeProcess: filepath.Join(own, "exec", "containerd", "containerd.pid"),
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, process{pid, kind})
	}
	return out, nil
}

// docker runs the command line, in a cluster's first moments only: what is timed goes through the API.
func (h *dockerHost) docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + h.socket}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s on %s: %w: %s", args[0], h.name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// call asks the API; in and out may be nil.
func (h *dockerHost) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := h.http.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// createAndRemove times a service of n replicas on a network from the call to all running, and from the call to no task left.
func (d *dockerCluster) createAndRemove(ctx context.Context, name, network string, n int) (create, remove time.Duration, err error) {
	spec := map[string]any{
		"Name": name,
		"TaskTemplate": map[string]any{
			"ContainerSpec": map[string]any{"Image": "swarm/hello:1"},
			"Networks":      []map[string]any{{"Target": network}},
		},
		"Mode": map[string]any{"Replicated": map[string]any{"Replicas": n}},
		// Its kernel module for virtual addresses may be missing: less for Docker to do.
		"EndpointSpec": map[string]any{"Mode": "dnsrr"},
	}
	began := time.Now()
	if err := d.hosts[0].call(ctx, http.MethodPost, "/services/create", spec, nil); err != nil {
		return 0, 0, err
	}
	if err := d.until(ctx, name, func(states []string) bool {
		running := 0
		for _, s := range states {
			if s == "running" {
				running++
			}
		}
		return running == n
	}); err != nil {
		return 0, 0, fmt.Errorf("wait for %d running: %w", n, err)
	}
	create = time.Since(began)
	began = time.Now()
	if err := d.hosts[0].call(ctx, http.MethodDelete, "/services/"+name, nil, nil); err != nil {
		return 0, 0, err
	}
	err = d.until(ctx, name, func(states []string) bool { return len(states) == 0 })
	return create, time.Since(began), err
}

// peerTick is how often dockerd is asked: it has no events of tasks, and should not spend its time on answers.
const peerTick = 50 * time.Millisecond

func (d *dockerCluster) until(ctx context.Context, service string, done func(states []string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(peerTick)
	defer tick.Stop()
	for {
		var tasks []struct {
			Name, ServiceID string
			Status          struct{ State string }
		}
		if err := d.hosts[0].call(ctx, http.MethodGet, "/tasks", nil, &tasks); err != nil {
			return err
		}
		var states []string
		for _, t := range tasks {
			states = append(states, t.Status.State)
		}
		if done(states) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("service %s: %w: tasks %v", service, ctx.Err(), states)
		}
	}
}

// close ends the daemons and everything they started.
func (d *dockerCluster) close() {
	for _, h := range d.hosts {
		if h.daemon != nil && h.daemon.Process != nil {
			_ = h.daemon.Process.Signal(syscall.SIGKILL)
		}
		h.http.CloseIdleConnections()
	}
	scope := dev.Scope{Dirs: []string{d.dir}, Cgroups: []string{d.cgroup}}
	for _, h := range d.hosts {
		scope.Pins = append(scope.Pins, d.lab.NamespacePath(h.name))
	}
	sweep(scope)
	for _, h := range d.hosts {
		if h.daemon != nil && h.daemon.Process != nil {
			_ = h.daemon.Wait()
		}
	}
	if err := d.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove Docker's hosts:", err)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove Docker's files:", err)
	}
}
