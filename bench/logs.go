package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// logs measures how fast writers in containers get their lines into the node's log, against the
// same writers that write into files, in turns.
func logs(ctx context.Context, e testbed.Env) error {
	program, archive := filepath.Join(e.Dir, "writer"), filepath.Join(e.Dir, "writer.tar")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "swarm/bench/writer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{
		build, exec.CommandContext(ctx, "go", "run", "swarm/scenarios/mkimage", "-o", archive, "-t", "swarm/writer:1", program),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make the writers' image: %w\n%s", err, out)
		}
	}
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 1, Managers: 1}, archive)
	if err != nil {
		return err
	}
	defer c.Down()
	var all []float64
	for _, m := range []struct{ writers, lines int }{{1, 1_000_000}, {50, 20_000}} {
		l := logRun{Cluster: c, program: program, dir: e.Dir, writers: m.writers, lines: m.lines}
		got, err := l.rounds(ctx, e.Rounds)
		if err != nil {
			return fmt.Errorf("%d writers: %w", m.writers, err)
		}
		all = append(all, got)
	}
	figure.Print("logs_ratio", slices.Min(all), "x", "lines/s to those of bare files, the worse of 1 and 50 writers; goal 0.5")
	return nil
}

// logRun is a measurement with some number of writers.
type logRun struct {
	*testbed.Cluster
	program, dir   string
	writers, lines int
}

// logged has the durations of one round.
type logged struct {
	took, writers, node time.Duration
}

// rounds measures containers and files in turn, prints the figures, and returns the ratio of their
// speeds.
func (l logRun) rounds(ctx context.Context, n int) (float64, error) {
	var ours, bare figure.Times
	var node, writers, ratios []float64
	total := float64(l.writers * l.lines)
	for i := range n {
		round := fmt.Sprintf("round-%d-of-%d", i, l.writers)
		b, err := l.bare(ctx, "bare-"+round)
		if err != nil {
			return 0, fmt.Errorf("bare files: %w", err)
		}
		o, err := l.ours(ctx, round)
		if err != nil {
			return 0, err
		}
		ours, bare = append(ours, o.took), append(bare, b.took)
		node = append(node, o.node.Seconds()*1e9/total)
		writers = append(writers, b.writers.Seconds()*1e9/total)
		ratios = append(ratios, b.took.Seconds()/o.took.Seconds())
	}
	slices.Sort(node)
	slices.Sort(writers)
	slices.Sort(ratios)
	figure.Print(fmt.Sprintf("logs_%d_lines_per_s", l.writers), total/ours.Median().Seconds(), "lines/s",
		fmt.Sprintf("of 100 bytes until all are in the log; bare files %.4g", total/bare.Median().Seconds()))
	figure.Print(fmt.Sprintf("logs_%d_cpu_ns_per_line", l.writers), node[n/2], "ns",
		fmt.Sprintf("daemon, runtime and shims; a bare writer's own: %.4g", writers[n/2]))
	figure.Print(fmt.Sprintf("logs_%d_ratio", l.writers), ratios[n/2], "x", fmt.Sprintf("to the same writers into bare files, of %.2f", ratios))
	return ratios[n/2], nil
}

// gate is the socket at which writers wait until they are told to begin.
type gate struct {
	listener net.Listener
	conns    []net.Conn
}

// openGate opens the socket, calls start, which starts the writers, and waits for all of them.
func (l logRun) openGate(ctx context.Context, dir string, start func() error) (*gate, error) {
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, err
	}
	g := &gate{listener: listener}
	if err := start(); err != nil {
		g.close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for range l.writers {
		conn, err := listener.Accept()
		if err != nil {
			g.close()
			return nil, fmt.Errorf("wait for the writers: %w", err)
		}
		g.conns = append(g.conns, conn)
	}
	return g, nil
}

// write makes the writers write, and returns the processor time that they used.
func (g *gate) write(lines int, round string) (used time.Duration, err error) {
	for _, c := range g.conns {
		if _, err := fmt.Fprintln(c, lines, round); err != nil {
			return 0, err
		}
	}
	for _, c := range g.conns {
		answer, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(answer), 10, 64)
		if err != nil {
			return 0, err
		}
		used += time.Duration(ns)
	}
	return used, nil
}

// close closes the socket, which ends the writers.
func (g *gate) close() {
	_ = g.listener.Close()
	for _, c := range g.conns {
		_ = c.Close()
	}
}

// bare runs the writers without containers, each into a file.
func (l logRun) bare(ctx context.Context, round string) (logged, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir := filepath.Join(l.dir, round)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return logged{}, err
	}
	defer os.RemoveAll(dir)
	var running []*exec.Cmd
	g, err := l.openGate(ctx, dir, func() error {
		for i := range l.writers {
			f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(i)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, l.program, filepath.Join(dir, "s"))
			cmd.Stdout = f
			err = cmd.Start()
			_ = f.Close() // The writer has a descriptor of its own.
			if err != nil {
				return err
			}
			running = append(running, cmd)
		}
		return nil
	})
	defer func() {
		for _, cmd := range running {
			_ = cmd.Wait()
		}
	}()
	if err != nil {
		cancel()
		return logged{}, err
	}
	defer g.close()
	began := time.Now()
	used, err := g.write(l.lines, round)
	return logged{took: time.Since(began), writers: used}, err
}

// ours runs the writers as a service, and waits until the last line of each is in the log.
func (l logRun) ours(ctx context.Context, round string) (logged, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dir := filepath.Join(l.dir, round)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return logged{}, err
	}
	defer os.RemoveAll(dir)
	w, err := testbed.Watch(ctx, l.Control)
	if err != nil {
		return logged{}, err
	}
	spec := testbed.Service(round, uint64(l.writers))
	spec.TaskTemplate.ContainerSpec.Image = "swarm/writer:1"
	spec.TaskTemplate.ContainerSpec.Args = []string{"/gate/s"}
	spec.TaskTemplate.ContainerSpec.Mounts = []*swarmv1.Mount{{Type: swarmv1.Mount_BIND, Source: dir, Target: "/gate"}}
	spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_NONE}
	logs := filepath.Join(l.Nodes[0].StateDir, "logs")
	before, err := os.ReadDir(logs)
	if err != nil {
		return logged{}, err
	}
	g, err := l.openGate(ctx, dir, func() error { return testbed.Create(ctx, l.Control, w, spec, l.writers) })
	if err != nil {
		return logged{}, err
	}
	out, err := l.measure(ctx, g, newEnds(logs, before), round)
	g.close()
	if err != nil {
		return logged{}, err
	}
	if _, err := l.Control.RemoveService(ctx, &swarmv1.GetRequest{Id: round}); err != nil {
		return logged{}, err
	}
	return out, w.Until(testbed.None)
}

func (l logRun) measure(ctx context.Context, g *gate, ends ends, round string) (logged, error) {
	host, err := l.Host(l.Nodes[0].Name)
	if err != nil {
		return logged{}, err
	}
	all, err := testbed.Processes(host)
	if err != nil {
		return logged{}, err
	}
	before, err := testbed.CPUTime(all)
	if err != nil {
		return logged{}, err
	}
	began := time.Now()
	used, err := g.write(l.lines, round)
	if err != nil {
		return logged{}, err
	}
	if err := testbed.Poll(ctx, "the last lines in the log", func() bool {
		n, ferr := ends.finished(round)
		err = ferr
		return err != nil || n == l.writers
	}); err != nil {
		return logged{}, err
	}
	took := time.Since(began)
	if err != nil {
		return logged{}, err
	}
	after, err := testbed.CPUTime(all)
	return logged{took: took, writers: used, node: after - before}, err
}

// ends looks for the last lines of tasks in their log files. It does not call the API, and it does
// not read a log again after it has seen the end, because the figure would include that work.
type ends struct {
	dir  string
	old  int             // folders of former rounds
	seen map[string]bool // folders that are not read again
}

func newEnds(dir string, before []os.DirEntry) ends {
	e := ends{dir, len(before), map[string]bool{}}
	for _, t := range before {
		e.seen[t.Name()] = true
	}
	return e
}

// finished returns how many tasks have a log that ends with a round's name.
func (e ends) finished(round string) (n int, err error) {
	tasks, err := os.ReadDir(e.dir)
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		if e.seen[t.Name()] {
			continue
		}
		segments, err := filepath.Glob(filepath.Join(e.dir, t.Name(), "segment.*"))
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(segments, func(path string) bool { return endsWith(path, round) }) {
			e.seen[t.Name()] = true
		}
	}
	return len(e.seen) - e.old, nil
}

func endsWith(path, text string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // The file has been rotated away.
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < int64(len(text)) {
		return false
	}
	end := make([]byte, len(text))
	_, err = f.ReadAt(end, info.Size()-int64(len(end)))
	return err == nil && bytes.Equal(end, []byte(text))
}
