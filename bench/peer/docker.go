package peer

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

	"swarm/bench/testbed"
	"swarm/dev"
)

// subnet has the addresses of Docker's hosts.
var subnet = netip.MustParsePrefix("10.218.0.0/24")

// Docker is a cluster of hosts with a dockerd each, in Swarm mode.
type Docker struct {
	lab    *dev.Lab
	dir    string
	cgroup string  // of the containers
	Hosts  []*Host // managers first
}

// Host is one host with a dockerd.
type Host struct {
	name, socket string
	address      netip.Addr
	daemon       *exec.Cmd
	log          bytes.Buffer
	http         *http.Client
}

// NewDocker makes a cluster of which some hosts are managers, with the test image on each. The
// caller calls Close.
func NewDocker(ctx context.Context, e testbed.Env, nodes, managers int) (*Docker, error) {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nil, errors.New("no dockerd to compare with: `make deps-bench` installs Debian's docker.io")
	}
	d := &Docker{dir: filepath.Join(e.Dir, "d"), cgroup: e.Cgroup()}
	lab, err := dev.NewLab(dev.LabConfig{Dir: filepath.Join(d.dir, "ns"), Name: "peer", Subnet: subnet})
	if err != nil {
		return nil, err
	}
	d.lab = lab
	if err := d.raise(ctx, e, nodes, managers); err != nil {
		if len(d.Hosts) > 0 {
			err = fmt.Errorf("%w\n%s", err, testbed.Tail(d.Hosts[len(d.Hosts)-1].log.String(), 20))
		}
		d.Close()
		return nil, fmt.Errorf("dockerd: %w", err)
	}
	return d, nil
}

func (d *Docker) raise(ctx context.Context, e testbed.Env, nodes, managers int) error {
	address := subnet.Addr().Next()
	for i := range nodes {
		address = address.Next()
		h := &Host{name: fmt.Sprintf("d%d", i+1), address: address}
		d.Hosts = append(d.Hosts, h)
		if err := d.start(h); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, h := range d.Hosts {
		g.Go(func() error {
			if err := testbed.Poll(ctx, "dockerd of "+h.name, func() bool { return h.Call(ctx, http.MethodGet, "/_ping", nil, nil) == nil }); err != nil {
				return err
			}
			_, err := h.docker(ctx, "load", "-i", e.Archive)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return d.join(ctx, managers)
}

// start runs a dockerd in the host. The dockerd has its own /run, because it keeps things at fixed
// places there, such as the lock of iptables. Its mounts go with its last process.
func (d *Docker) start(h *Host) error {
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

func (d *Docker) join(ctx context.Context, managers int) error {
	first := d.Hosts[0]
	if _, err := first.docker(ctx, "swarm", "init", "--advertise-addr", first.address.String()); err != nil {
		return err
	}
	for i, h := range d.Hosts[1:] {
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

// Processes returns a host's dockerd and its containerd, as Daemon and Runtime.
func (d *Docker) Processes(h *Host) (out []testbed.Process, err error) {
	own := filepath.Join(d.dir, h.name)
	for kind, file := range map[testbed.Kind]string{
		testbed.Daemon: filepath.Join(own, "pid"), testbed.Runtime: filepath.Join(own, "exec", "containerd", "containerd.pid"),
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, testbed.Process{PID: pid, Kind: kind})
	}
	return out, nil
}

// docker runs Docker's command line. Only the setup uses it. Calls that are timed go through the
// API.
func (h *Host) docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + h.socket}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s on %s: %w: %s", args[0], h.name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Call makes one request of the Docker API. in is the body, out takes the answer; both may be nil.
func (h *Host) Call(ctx context.Context, method, path string, in, out any) error {
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

// service returns a spec of n replicas of the test image.
func service(name string, n int) map[string]any {
	return map[string]any{
		"Name":         name,
		"TaskTemplate": map[string]any{"ContainerSpec": map[string]any{"Image": "swarm/hello:1"}},
		"Mode":         map[string]any{"Replicated": map[string]any{"Replicas": n}},
		// The kernel module for virtual addresses may be missing. Without them Docker has less to
		// do.
		"EndpointSpec": map[string]any{"Mode": "dnsrr"},
	}
}

// allRunning returns a condition for until: exactly n tasks run.
func allRunning(n int) func(states []string) bool {
	return func(states []string) bool {
		running := 0
		for _, s := range states {
			if s == "running" {
				running++
			}
		}
		return running == n
	}
}

// none is a condition for until: no task is left.
func none(states []string) bool { return len(states) == 0 }

// CreateAndRemove makes and removes a service of n replicas on a network. It returns the time from
// the first call until all tasks run, and from the second call until no task is left.
func (d *Docker) CreateAndRemove(ctx context.Context, name, network string, n int) (create, remove time.Duration, err error) {
	spec := service(name, n)
	spec["TaskTemplate"].(map[string]any)["Networks"] = []map[string]any{{"Target": network}}
	began := time.Now()
	if err := d.Hosts[0].Call(ctx, http.MethodPost, "/services/create", spec, nil); err != nil {
		return 0, 0, err
	}
	if err := d.until(ctx, name, allRunning(n)); err != nil {
		return 0, 0, fmt.Errorf("wait for %d running: %w", n, err)
	}
	create = time.Since(began)
	began = time.Now()
	if err := d.Hosts[0].Call(ctx, http.MethodDelete, "/services/"+name, nil, nil); err != nil {
		return 0, 0, err
	}
	err = d.until(ctx, name, none)
	return create, time.Since(began), err
}

// CreateServices makes n services of one replica, one call after another. It returns the time until
// all are accepted and the time until all run.
func (d *Docker) CreateServices(ctx context.Context, n int, name func(i int) string) (accepted, running time.Duration, err error) {
	began := time.Now()
	for i := range n {
		if err := d.Hosts[0].Call(ctx, http.MethodPost, "/services/create", service(name(i), 1), nil); err != nil {
			return 0, 0, err
		}
	}
	accepted = time.Since(began)
	err = d.until(ctx, "of each name", allRunning(n))
	return accepted, time.Since(began), err
}

// RemoveServices removes the services that CreateServices made, and waits until no task is left.
func (d *Docker) RemoveServices(ctx context.Context, n int, name func(i int) string) error {
	for i := range n {
		if err := d.Hosts[0].Call(ctx, http.MethodDelete, "/services/"+name(i), nil, nil); err != nil {
			return err
		}
	}
	return d.until(ctx, "of each name", none)
}

// pollPeriod is the interval at which dockerd is queried for its tasks. dockerd has no task events,
// and the answers should not cost it much time.
const pollPeriod = 50 * time.Millisecond

func (d *Docker) until(ctx context.Context, service string, done func(states []string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		var tasks []struct {
			Name, ServiceID string
			Status          struct{ State string }
		}
		if err := d.Hosts[0].Call(ctx, http.MethodGet, "/tasks", nil, &tasks); err != nil {
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

// Close ends the daemons and everything that they have started.
func (d *Docker) Close() {
	for _, h := range d.Hosts {
		if h.daemon != nil && h.daemon.Process != nil {
			_ = h.daemon.Process.Signal(syscall.SIGKILL)
		}
		h.http.CloseIdleConnections()
	}
	scope := dev.Scope{Dirs: []string{d.dir}, Cgroups: []string{d.cgroup}}
	for _, h := range d.Hosts {
		scope.Pins = append(scope.Pins, d.lab.NamespacePath(h.name))
	}
	testbed.Sweep(scope)
	for _, h := range d.Hosts {
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
