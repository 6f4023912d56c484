//go:build linux

package shimgroup

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// started adds a container that its shim has set up.
func (g *Table) started(task, service string) string {
	g.Assign(task, service)
	name, _, _ := g.Join(context.Background(), task, service)
	g.JoinSucceeded(task)
	return name
}

func (g *Table) mustJoin(t *testing.T, task, service string) string {
	t.Helper()
	name, _, err := g.Join(t.Context(), task, service)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTable_TheFirstJoinsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New("b")
		first := g.Assign("t1", "s")
		for _, task := range []string{"t2", "t3"} {
			if got := g.Assign(task, "service of "+task); got != first {
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
		g.JoinFailed("t1") // its shim is gone
		if got := <-names; got == first {
			t.Errorf("second: got %s, want another group", got)
		}
		g.JoinSucceeded("t2")
		if got, want := g.mustJoin(t, "t3", "service of t3"), "b-"+g.run+"-2"; got != want {
			t.Errorf("third: got %s, want %s", got, want)
		}
	})
}

func TestTable_AreFullAndSpreadAService(t *testing.T) {
	g := New("b")
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

func TestTable_TwoOfAServiceAreApart(t *testing.T) {
	g := New("b")
	if a, b := g.started("t1", "s"), g.started("t2", "s"); a == b {
		t.Errorf("both in %s", a)
	}
	if a, b := g.started("t3", "r"), g.started("t4", "q"); a != b {
		t.Errorf("other services: got %s and %s, want them to share", a, b)
	}
}

func TestTable_NobodyJoinsWhatHasBeenLeft(t *testing.T) {
	g := New("b")
	first := g.started("t1", "s")
	if got := g.Assign("t2", "r"); got != first {
		t.Fatalf("second container: got %s, want %s", got, first)
	}
	if err := g.Leave(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if name, moved, err := g.Join(t.Context(), "t2", "r"); name == first || !moved || err != nil {
		t.Errorf("join after the last has left: got %s, moved %v, want another group", name, moved)
	}
	if got := g.Assign("t3", "r"); got == first {
		t.Errorf("third container: got %s, which has been left", got)
	}
}

func TestTable_TheLastWaitsForWhoeverJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, arrive := range map[string]func(*Table, string){"joined": (*Table).JoinSucceeded, "left": (*Table).JoinFailed} {
			g := New("b")
			g.started("t1", "s")
			g.Assign("t2", "r")
			g.mustJoin(t, "t2", "r")
			done := make(chan error, 1)
			go func() { done <- g.Leave(t.Context(), "t1") }()
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
			if _, moved, err := g.Join(t.Context(), "t3", "q"); !moved || err != nil {
				t.Errorf("%s: join without an assignment: want moved", name)
			}
		}
		g := New("b")
		g.started("t1", "s")
		g.Assign("t2", "r")
		g.mustJoin(t, "t2", "r")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Leave(ended, "t1"); !errors.Is(err, context.Canceled) {
			t.Errorf("leave: got %v, want canceled", err)
		}
	})
}

func TestTable_TakeOverWhatAnEarlierProcessLeft(t *testing.T) {
	g := New("b2")
	err := g.Load(func() ([]Member, error) {
		return []Member{
			{Task: "same", Service: "s", Group: "b2-1", Started: true},
			{Task: "idle", Service: "s", Group: "b2-2"},
			{Task: "old", Service: "s", Group: "b1-1", Started: true},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Assign("new", "r"); got != "b2-1" {
		t.Errorf("new container: got %s, want b2-1", got)
	}
	if name, moved, err := g.Join(t.Context(), "idle", "s"); name == "b2-2" || !moved || err != nil {
		t.Errorf("container that was not started: got %s, moved %v, want another group", name, moved)
	}
	if g.Assign("old", "s") != "b1-1" {
		t.Errorf("container of another build: got %s, want b1-1", g.Assign("old", "s"))
	}
}
