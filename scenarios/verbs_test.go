package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"swarm/dev"
	"swarm/internal/pki"
)

// scene is the state of one scenario.
type scene struct {
	name, binary string
	deadline     time.Time
	playground   *dev.Playground
	stops        []func()             // stop the programs beside the daemons
	occupied     map[string]io.Closer // by "HOST PORT"
}

type sceneKey struct{}

func sceneOf(ts *testscript.TestScript) *scene { return ts.Value(sceneKey{}).(*scene) }

// close stops all that the scenario started. If the scenario failed, close prints the end of each
// daemon's log.
func (s *scene) close(t testscript.T) {
	for _, stop := range s.stops {
		stop()
	}
	if s.playground == nil {
		return
	}
	if f, ok := t.(interface{ Failed() bool }); ok && f.Failed() {
		s.printLogs(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := dev.Down(ctx, s.name); err != nil {
		t.Fatal("take the playground down: ", err)
	}
}

func (s *scene) printLogs(t testscript.T) {
	hosts, err := s.playground.Hosts()
	if err != nil {
		return
	}
	for _, h := range hosts {
		text, _ := os.ReadFile(h.Log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if len(lines) > 40 {
			lines = lines[len(lines)-40:]
		}
		t.Log("--- " + h.Name + "'s daemon:\n" + strings.Join(lines, "\n"))
	}
}

// verbs returns the commands that scripts have in addition to those of testscript.
func verbs() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"cluster":    cmdCluster,
		"hosts":      cmdHosts,
		"on":         cmdOn,
		"eventually": cmdEventually,
		"during":     cmdDuring,
		"http":       cmdHTTP,
		"crash":      hostCommand((*dev.Playground).Kill),
		"shutdown":   hostCommand((*dev.Playground).Shutdown),
		"poweroff":   hostCommand((*dev.Playground).PowerOff),
		"halt":       hostCommand((*dev.Playground).Stop),
		"start":      hostCommand((*dev.Playground).Start),
		"cut":        cmdCut,
		"heal":       cmdHeal,
		"setenv":     cmdSetenv,
		"match":      cmdMatch,
		"occupy":     cmdOccupy,
		"registry":   cmdRegistry,
	}
}

// cluster N [MANAGERS [INIT-ARG...]] starts N hosts node1, node2 ... and joins them. The first
// MANAGERS of them are managers (default 3, or N if N is less). Each daemon gets $DAEMON_ARGS. The
// verb sets SWARM_HOST to node1's socket.
func cmdCluster(ts *testscript.TestScript, neg bool, args []string) { up(ts, args, false) }

// hosts N [DAEMON-ARG...] starts N hosts with a daemon each, which are part of no cluster.
func cmdHosts(ts *testscript.TestScript, neg bool, args []string) { up(ts, args, true) }

func up(ts *testscript.TestScript, args []string, noCluster bool) {
	if len(args) < 1 {
		ts.Fatalf("usage: cluster N [MANAGERS [INIT-ARG...]], or hosts N [DAEMON-ARG...]")
	}
	nodes, err := strconv.Atoi(args[0])
	ts.Check(err)
	managers := min(nodes, 3)
	var initArgs []string
	daemonArgs := strings.Fields(ts.Getenv("DAEMON_ARGS"))
	if noCluster {
		daemonArgs = append(daemonArgs, args[1:]...)
	} else if len(args) > 1 {
		managers, err = strconv.Atoi(args[1])
		ts.Check(err)
		initArgs = args[2:]
	}
	s := sceneOf(ts)
	ctx, cancel := context.WithDeadline(context.Background(), s.deadline)
	defer cancel()
	p, err := dev.Up(ctx, dev.Options{
		Name: s.name, Nodes: nodes, Managers: managers, Binary: s.binary, NoCluster: noCluster,
		InitArgs: initArgs, DaemonArgs: daemonArgs,
		Root: filepath.Join("/tmp", "swarm-"+s.name), Progress: func(line string) { ts.Logf("%s", line) },
	})
	ts.Check(err)
	s.playground = p
	list, err := p.Hosts()
	ts.Check(err)
	for _, h := range list {
		ts.Setenv(strings.ToUpper(h.Name)+"_ADDR", h.Address.String())
		ts.Setenv(strings.ToUpper(h.Name)+"_STATE", h.StateDir)
		ts.Setenv(strings.ToUpper(h.Name)+"_LOG", h.Log)
	}
	ts.Setenv("SWARM_HOST", "unix://"+list[0].Socket)
}

func playground(ts *testscript.TestScript) *dev.Playground {
	p := sceneOf(ts).playground
	if p == nil {
		ts.Fatalf("no hosts yet: use cluster or hosts first")
	}
	return p
}

func socketOf(ts *testscript.TestScript, host string) string {
	h, err := playground(ts).Host(host)
	ts.Check(err)
	return "unix://" + h.Socket
}

// on HOST COMMAND... runs a command inside a host, with SWARM_HOST set to the socket of that host's
// daemon.
func cmdOn(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: on HOST COMMAND [ARG...]")
	}
	stdout, stderr, err := runOn(ts, args[0], args[1:])
	finish(ts, neg, stdout, stderr, err)
}

// runOn runs a command in the network namespace of a host.
func runOn(ts *testscript.TestScript, host string, argv []string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	path, err := lookPath(ts, argv[0])
	if err != nil {
		return "", "", err
	}
	cmd := exec.Command(path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "SWARM_HOST=" + socketOf(ts, host)}
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := playground(ts).Do(host, cmd.Start); err != nil {
		return "", "", err
	}
	timer := time.AfterFunc(time.Until(sceneOf(ts).deadline), func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	return out.String(), errOut.String(), err
}

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, name); executable(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found", name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

func finish(ts *testscript.TestScript, neg bool, stdout, stderr string, err error) {
	_, _ = io.WriteString(ts.Stdout(), stdout)
	_, _ = io.WriteString(ts.Stderr(), stderr)
	if stdout != "" {
		ts.Logf("[stdout]\n%s", stdout)
	}
	if stderr != "" {
		ts.Logf("[stderr]\n%s", stderr)
	}
	if err != nil && !neg {
		ts.Fatalf("%v", err)
	}
	if err == nil && neg {
		ts.Fatalf("unexpected success")
	}
}

// eventually DURATION [-count=N] REGEXP COMMAND... runs a command repeatedly until its output
// matches (N times). `eventually DURATION ok COMMAND...` runs it until it succeeds, and `eventually
// DURATION gone REGEXP COMMAND...` until its output no longer matches.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: eventually DURATION [-count=N|gone] REGEXP|ok COMMAND [ARG...]")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, argv := parseWant(ts, args[1:])
	began := time.Now()
	for {
		stdout, stderr, err := run(ts, argv)
		if want.met(stdout+stderr, err) {
			ts.Logf("after %v", time.Since(began).Round(10*time.Millisecond))
			finish(ts, false, stdout, stderr, nil)
			return
		}
		if time.Since(began) > limit || time.Now().After(sceneOf(ts).deadline) {
			ts.Fatalf("not within %v: want %s\n[stdout]\n%s[stderr]\n%s%v", limit, want, stdout, stderr, err)
		}
		<-time.After(100 * time.Millisecond) // the interval of the poll
	}
}

// during DURATION [-count=N|gone] REGEXP COMMAND... runs a command repeatedly and fails once its
// output does not match.
func cmdDuring(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: during DURATION [-count=N|gone] REGEXP|ok COMMAND [ARG...]")
	}
	length, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, argv := parseWant(ts, args[1:])
	for began := time.Now(); time.Since(began) < length; {
		<-time.After(250 * time.Millisecond)
		if stdout, stderr, err := run(ts, argv); !want.met(stdout+stderr, err) {
			ts.Fatalf("after %v: want %s\n[stdout]\n%s[stderr]\n%s%v", time.Since(began), want, stdout, stderr, err)
		}
	}
}

// wanted is the condition that eventually and during check.
type wanted struct {
	pattern *regexp.Regexp // nil: the command has to succeed, whatever its output
	count   int            // -1: at least once
	gone    bool
}

func (w wanted) met(output string, err error) bool {
	if w.pattern == nil {
		return err == nil
	}
	n := len(w.pattern.FindAllString(output, -1))
	switch {
	case w.gone:
		return err == nil && n == 0
	case w.count >= 0:
		return err == nil && n == w.count
	default:
		return n > 0
	}
}

func (w wanted) String() string {
	if w.pattern == nil {
		return "success"
	}
	return fmt.Sprintf("%v (count %d, gone %v)", w.pattern, w.count, w.gone)
}

func parseWant(ts *testscript.TestScript, args []string) (wanted, []string) {
	w := wanted{count: -1}
	if n, ok := strings.CutPrefix(args[0], "-count="); ok {
		count, err := strconv.Atoi(n)
		ts.Check(err)
		w.count, args = count, args[1:]
	} else if args[0] == "gone" {
		w.gone, args = true, args[1:]
	}
	if args[0] != "ok" {
		pattern, err := regexp.Compile("(?m)" + args[0])
		ts.Check(err)
		w.pattern = pattern
	}
	return w, args[1:]
}

// run runs a command on this machine. `on HOST ...` runs it inside a host, and `http ...` requests
// a page.
func run(ts *testscript.TestScript, argv []string) (stdout, stderr string, err error) {
	switch argv[0] {
	case "on":
		return runOn(ts, argv[1], argv[2:])
	case "http":
		stdout, err = get(ts, argv[1:])
		return stdout, "", err
	case "expired":
		return "", "", expired(ts, argv[1])
	}
	path, err := lookPath(ts, argv[0])
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithDeadline(context.Background(), sceneOf(ts).deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "SWARM_HOST=" + ts.Getenv("SWARM_HOST")}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// http HOST URL sends a GET request from inside a host and prints the body on stdout.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	body, err := get(ts, args)
	finish(ts, neg, body, "", err)
}

func get(ts *testscript.TestScript, args []string) (string, error) {
	if len(args) != 2 {
		ts.Fatalf("usage: http HOST URL")
	}
	p := playground(ts)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
			doErr := p.Do(args[0], func() error {
				conn, err = net.DialTimeout(network, addr, 3*time.Second)
				return err
			})
			return conn, doErr
		},
	}}
	answer, err := client.Get(args[1])
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// expired returns an error unless the certificate of a host has expired.
func expired(ts *testscript.TestScript, host string) error {
	h, err := playground(ts).Host(host)
	ts.Check(err)
	cred, _, err := pki.Disk{Dir: filepath.Join(h.StateDir, "certificates")}.Load()
	ts.Check(err)
	if left := time.Until(cred.Cert.NotAfter); left > 0 {
		return fmt.Errorf("the certificate of %s is valid for another %v", host, left)
	}
	return nil
}

// hostCommand makes a verb of a method of the playground. The verb calls it for each host that is
// named.
func hostCommand(do func(*dev.Playground, context.Context, string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		for _, host := range args {
			ctx, cancel := context.WithDeadline(context.Background(), sceneOf(ts).deadline)
			err := do(playground(ts), ctx, host)
			cancel()
			ts.Check(err)
		}
	}
}

// cut HOST [HOST] [PORT/PROTOCOL] unplugs a host, or blocks traffic between two hosts, or blocks
// one port.
func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	var c dev.Cut
	for _, a := range args {
		if port, protocol, ok := strings.Cut(a, "/"); ok {
			n, err := strconv.ParseUint(port, 10, 16)
			ts.Check(err)
			c.Port, c.Protocol = uint16(n), protocol
			continue
		}
		c.Hosts = append(c.Hosts, a)
	}
	ts.Check(playground(ts).Cut(c))
}

// heal [HOST...] undoes cuts.
func cmdHeal(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(playground(ts).Heal(args...))
}

// setenv NAME COMMAND... sets a variable to the trimmed output of a command. `setenv NAME on HOST
// COMMAND...` runs the command inside a host.
func cmdSetenv(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: setenv NAME COMMAND [ARG...]")
	}
	stdout, stderr, err := run(ts, args[1:])
	if err != nil {
		ts.Fatalf("%v\n%s", err, stderr)
	}
	ts.Setenv(args[0], strings.TrimSpace(stdout))
}

// match REGEXP STRING checks a string, such as a variable, against a pattern.
func cmdMatch(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: match REGEXP STRING")
	}
	ok, err := regexp.MatchString(args[0], args[1])
	ts.Check(err)
	if ok == neg {
		ts.Fatalf("%q matches %q: %v", args[1], args[0], ok)
	}
}
