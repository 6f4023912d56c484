package scenarios

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// TestManagerRoles demotes, promotes, replaces and rejoins every manager of a cluster. The cluster
// began with one voter and has a long log. The leader must not change without need, and promote
// must return only when the node votes. ROUNDS is the number of clusters, default 1. ENTRIES is the
// length of the log, default 2000.
func TestManagerRoles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	t.Parallel()
	rounds, entries := envNumber(t, "ROUNDS", 1), envNumber(t, "ENTRIES", 2000)
	for i := range rounds {
		t.Run(fmt.Sprintf("round %d", i+1), func(t *testing.T) {
			c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 1, DaemonArgs: []string{"--simulated"}})
			c.fillLog(int(entries))
			s := &roleChanges{c}
			for _, h := range c.hosts[1:] {
				s.step("promote", h)
			}
			for _, h := range c.hosts {
				s.step("demote", h)
				s.step("promote", h)
				s.step("replace", h)
			}
			t.Logf("round %d of %d: %d entries, 11 steps, %d terms", i+1, rounds, entries, s.terms())
		})
	}
}

// fillLog writes log entries one after the other.
func (c *testCluster) fillLog(n int) {
	c.t.Helper()
	conn, err := transport.DialUnix(c.hosts[0].Socket)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	control := swarmv1.NewControlClient(conn)
	info, err := control.GetNode(c.ctx, &swarmv1.GetRequest{Id: "node1"})
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range n {
		spec := info.GetNode().GetSpec().CloneVT()
		spec.Labels = map[string]string{"entry": fmt.Sprint(i)}
		info, err = control.UpdateNode(c.ctx, &swarmv1.UpdateNodeRequest{Id: info.GetNode().GetId(), Version: info.GetNode().GetMeta().GetVersion(), Spec: spec})
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// roleChanges changes the managers of a cluster.
type roleChanges struct{ *testCluster }

// step changes one host's role and checks what the other managers report.
func (s *roleChanges) step(what string, h dev.Host) {
	s.t.Helper()
	if h.Name == s.hosts[s.at].Name { // Commands go to another manager.
		s.at = (s.at + 1) % len(s.hosts)
	}
	allowed := 0
	if what != "promote" && s.leader() == h.Name {
		allowed = 1
	}
	before := s.terms()
	switch what {
	case "promote":
		s.swarm("node", "promote", h.Name)
	case "demote":
		s.swarm("node", "demote", h.Name)
		s.eventually("the vote of "+h.Name+" is gone", func() error { return s.status(h.Name, "") })
		s.eventually(h.Name+" is a worker", func() error {
			if out, err := s.runAt(h, "node", "ls"); err == nil || !strings.Contains(out, "not a swarm manager") {
				return fmt.Errorf("node ls there: %v: %s", err, out)
			}
			return nil
		})
	case "replace":
		if _, err := s.runAt(h, "leave", "--force"); err != nil {
			s.t.Fatal(err)
		}
		s.eventually(h.Name+" is gone", func() error {
			_, err := s.run("node", "rm", "--force", h.Name)
			return err
		})
		token := strings.TrimSpace(s.swarm("join-token", "-q", "manager"))
		if _, err := s.runAt(h, "join", "--token", token, s.hosts[s.at].Address.String()+":2377"); err != nil {
			s.t.Fatal(err)
		}
	}
	if what != "demote" { // The command has waited for the change, so it must show at once.
		if err := s.status(h.Name, "Reachable"); err != nil {
			s.t.Errorf("after %s %s: %v", what, h.Name, err)
		}
		if out, err := s.runAt(h, "node", "ls", "--format", "{{.Hostname}}"); err != nil || strings.Count(out, "\n") != len(s.hosts) {
			s.t.Errorf("after %s %s: node ls on that host: %v: %s", what, h.Name, err, out)
		}
	}
	if got := s.terms() - before; got > allowed {
		s.t.Errorf("%s %s: the leader changed %d times, want at most %d", what, h.Name, got, allowed)
	}
}

// status checks a node's MANAGER STATUS.
func (s *roleChanges) status(host, want string) error {
	out, err := s.run("node", "ls", "--filter", "name="+host, "--format", "{{.ManagerStatus}}")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(out); got != want && !(want == "Reachable" && got == "Leader") {
		return fmt.Errorf("manager status of %s: got %q, want %q", host, got, want)
	}
	return nil
}

func (s *roleChanges) leader() string {
	s.t.Helper()
	for line := range strings.Lines(s.swarm("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")) {
		if host, status, _ := strings.Cut(strings.TrimSpace(line), " "); status == "Leader" {
			return host
		}
	}
	s.t.Fatal("node ls shows no leader")
	return ""
}

var ledAt = regexp.MustCompile(`msg="this manager leads" node=\w+ index=`)

// terms returns how often a manager became leader, and fails the test if a daemon panicked.
func (s *roleChanges) terms() (n int) {
	s.t.Helper()
	for _, h := range s.hosts {
		text, err := os.ReadFile(h.Log)
		if err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(text), "panic") {
			s.t.Errorf("%s panicked: see %s", h.Name, h.Log)
		}
		n += len(ledAt.FindAll(text, -1))
	}
	return n
}
