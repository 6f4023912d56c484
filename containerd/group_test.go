//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// started adds a container that its shim has.
func (g *groups) started(task, service string) string {
	g.assign(task, service)
	name, _, _ := g.join(context.Background(), task, service)
	g.joined(task)
	return name
}

func (g *groups) mustJoin(t *testing.T, task, service string) string {
	t.Helper()
	name, _, err := g.join(t.Context(), task, service)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestGroups_TheFirstJoinsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroups("b")
		first := g.assign("t1", "s")
		for _, task := range []string{"t2", "t3"} {
			if got := g.assign(task, "service of "+task); got != first {
				t.Fatalf("%s: got %s, want %s", task, got, first)
			}
		}
		g.mustJoin(t, "t1", "s")
		names := make(chan string, 1)
		go func() { names <- g.mustJoin(t, "t2", "service of t2") }()
		synctest.Wait()
		select {
		case <-names:
			t.Fatal("the second joined before the first had")
		default:
		}
		g.left("t1") // it could not: its shim is gone
		if got := <-names; got == first {
			t.Errorf("second: got %s, want another group", got)
		}
		g.joined("t2")
		if got, want := g.mustJoin(t, "t3", "service of t3"), "b-"+g.run+"-2"; got != want {
			t.Errorf("third: got %s, want %s", got, want)
		}
	})
}

func TestGroups_AreFullAndSpreadAService(t *testing.T) {
	g := newGroups("b")
	size, service := map[string]int{}, map[string]map[string]bool{}
	for i := range 95 {
		s := fmt.Sprintf("s%d", i%7)
		name := g.started(fmt.Sprintf("t%d", i), s)
		size[name]++
		if service[s] == nil {
			service[s] = map[string]bool{}
		}
		service[s][name] = true
	}
	if want := (95 + groupSize - 1) / groupSize; len(size) != want {
		t.Errorf("groups of 95 containers: got %d, want %d: %v", len(size), want, size)
	}
	for name, n := range size {
		if n > groupSize {
			t.Errorf("group %s: got %d containers, want at most %d", name, n, groupSize)
		}
	}
	for s, names := range service {
		if len(names) < 2 {
			t.Errorf("service %s: got %v, want more than one group", s, names)
		}
	}
}

func TestGroups_TwoOfAServiceAreApart(t *testing.T) {
	g := newGroups("b")
	if a, b := g.started("t1", "s"), g.started("t2", "s"); a == b {
		t.Errorf("both in %s", a)
	}
	if a, b := g.started("t3", "r"), g.started("t4", "q"); a != b {
		t.Errorf("other services: got %s and %s, want them to share", a, b)
	}
}

func TestGroups_NobodyJoinsWhatHasBeenLeft(t *testing.T) {
	g := newGroups("b")
	first := g.started("t1", "s")
	if got := g.assign("t2", "r"); got != first {
		t.Fatalf("second container: got %s, want %s", got, first)
	}
	if err := g.leave(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if name, moved, err := g.join(t.Context(), "t2", "r"); name == first || !moved || err != nil {
		t.Errorf("join after the last has left: got %s, moved %v, want another group", name, moved)
	}
	if got := g.assign("t3", "r"); got == first {
		t.Errorf("third container: got %s, which has been left", got)
	}
}

func TestGroups_TheLastWaitsForWhoeverJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, arrive := range map[string]func(*groups, string){"joined": (*groups).joined, "left": (*groups).left} {
			g := newGroups("b")
			g.started("t1", "s")
			g.assign("t2", "r")
			g.mustJoin(t, "t2", "r")
			done := make(chan error, 1)
			go func() { done <- g.leave(t.Context(), "t1") }()
			synctest.Wait()
			select {
			case <-done:
				t.Fatalf("%s: the last left while another was joining", name)
			default:
			}
			arrive(g, "t2")
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, moved, err := g.join(t.Context(), "t3", "q"); !moved || err != nil {
				t.Errorf("%s: join without an assignment: want moved", name)
			}
		}
		g := newGroups("b")
		g.started("t1", "s")
		g.assign("t2", "r")
		g.mustJoin(t, "t2", "r")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.leave(ended, "t1"); !errors.Is(err, context.Canceled) {
			t.Errorf("leave: got %v, want canceled", err)
		}
	})
}

func TestGroups_TakeOverWhatAnEarlierProcessLeft(t *testing.T) {
	g := newGroups("b2")
	err := g.load(func() ([]member, error) {
		return []member{
			{task: "same", service: "s", group: "b2-1", started: true},
			{task: "idle", service: "s", group: "b2-2"},
			{task: "old", service: "s", group: "b1-1", started: true},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.assign("new", "r"); got != "b2-1" {
		t.Errorf("new container: got %s, want b2-1", got)
	}
	if name, moved, err := g.join(t.Context(), "idle", "s"); name == "b2-2" || !moved || err != nil {
		t.Errorf("container that was not started: got %s, moved %v, want another group", name, moved)
	}
	if g.assign("old", "s") != "b1-1" {
		t.Errorf("container of another build: got %s, want b1-1", g.assign("old", "s"))
	}
}
