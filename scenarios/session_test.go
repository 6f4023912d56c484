package scenarios

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// session is an exec session that is open while its daemon is killed.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan error
}

// openSession opens an exec session in the task of a service, in the first round that kills a
// daemon on each host.
func (c *testCluster) openSession(i int, what, service string) *session {
	c.t.Helper()
	if what != "daemon" {
		return nil
	}
	s := &session{t: c.t, out: &bytes.Buffer{}, done: make(chan error, 1)}
	s.cmd = exec.CommandContext(c.ctx, c.binary, "-H", "unix://"+c.hosts[0].Socket, "exec", service, "/app", "-listen", "")
	lines := &firstLine{w: s.out, seen: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = lines, lines
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	select {
	case <-lines.seen:
	case err := <-s.done:
		c.t.Fatalf("round %d: exec ended: %v: %s", i, err, s.out)
	case <-time.After(30 * time.Second):
		c.t.Fatalf("round %d: exec has no output", i)
	}
	return s
}

// ended checks that the user of the session is told that it has ended.
func (s *session) ended(host string) {
	s.t.Helper()
	select {
	case err := <-s.done:
		said := s.out.String()
		if err == nil || !strings.Contains(said, "session") {
			s.t.Errorf("exec after the daemon of %s was killed: got %v and %q, want that the session has ended", host, err, said)
		}
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
		s.t.Errorf("exec goes on after the daemon of %s was killed", host)
	}
}

// firstLine passes on all that is written and closes seen at the first write.
type firstLine struct {
	w    *bytes.Buffer
	seen chan struct{}
	once bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	if !f.once {
		f.once = true
		close(f.seen)
	}
	return f.w.Write(b)
}
