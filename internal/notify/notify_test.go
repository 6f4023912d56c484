//go:build linux

package notify_test

import (
	"strings"
	"testing"

	"swarm/internal/notify"
)

func TestStarter_TellsTheSocket(t *testing.T) {
	s, err := notify.Listen()
	if err != nil {
		t.Fatal(err)
	}
	name, address, _ := strings.Cut(s.Env(), "=")
	t.Setenv(name, address)
	starter, err := notify.TakeStarter()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := notify.TakeStarter(); again != "" || err != nil {
		t.Errorf("a child of this process would report in its name: %q, %v", again, err)
	}
	ready := make(chan error)
	go func() { ready <- s.Wait() }()
	for _, state := range []string{"STATUS=starting", "STATUS=serving\n" + notify.Ready} {
		if err := starter.Tell(state); err != nil {
			t.Error(err)
		}
	}
	if err := <-ready; err != nil {
		t.Errorf("wait: %v", err)
	}
	if env := starter.Env(); env != nil {
		t.Errorf("after exec nobody listens there any more: got %v", env)
	}
	go func() { ready <- s.Wait() }()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ready; err == nil {
		t.Error("wait did not fail after Close")
	}
	if err := starter.Tell(notify.Ready); err == nil {
		t.Error("a starter that is gone: got no error")
	}
}

func TestStarter_OfServiceManagerOutlivesExec(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	starter, err := notify.TakeStarter()
	if err != nil {
		t.Fatal(err)
	}
	if env := starter.Env(); len(env) != 1 || env[0] != "NOTIFY_SOCKET=/run/systemd/notify" {
		t.Errorf("got %v", env)
	}
	if err := notify.Starter("").Tell(notify.Ready); err != nil {
		t.Errorf("without a starter: %v", err)
	}
}
