package raftstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

func TestStore_CommitThenView(t *testing.T) {
	s := raftstoretest.New(t)
	ctx := t.Context()
	view, w := s.Watch(table.Service)
	index, err := s.Commit(ctx, "test", table.Create(&swarmv1.Service{Id: "s1", Name: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	svc, ok := s.View().Services.ByName("web")
	if !ok || svc.GetId() != "s1" || svc.GetMeta().GetVersion() != index {
		t.Fatalf("got %v, want s1 at %d", svc, index)
	}
	if view.Services.Len() != 0 {
		t.Error("an older view has changed")
	}
	b, err := w.Next(ctx)
	if err != nil || len(b.Changes) != 1 || b.Changes[0].Key != "s1" || b.Changes[0].Old != nil {
		t.Errorf("got %v, %v", b.Changes, err)
	}
	if _, err := s.Commit(ctx, "test", table.Create(&swarmv1.Service{Id: "s2", Name: "web"})); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name twice: got %v", err)
	}
	stale := svc.CloneVT()
	stale.Meta.Version--
	if _, err := s.Commit(ctx, "test", table.Update(stale)); !errdefs.IsAborted(err) {
		t.Errorf("a stale version: got %v", err)
	}
	if _, err := s.Commit(ctx, "test", table.Delete(&swarmv1.Task{Id: "t9"})); !errdefs.IsNotFound(err) {
		t.Errorf("a row that is not there: got %v", err)
	}
}

func TestStore_InABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		if _, err := s.Commit(t.Context(), "test", table.Create(&swarmv1.Task{Id: "t1"})); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.WaitIndex(ctx, 1000); err == nil {
			t.Error("an index that never comes was reached")
		}
	})
}

func TestWatcher_CatchUpNeedsNoChange(t *testing.T) {
	s := raftstoretest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, w := s.Watch(table.Network)
	for want, change := range []*swarmv1.Change{
		table.Create(&swarmv1.Service{Id: "s1", Name: "web"}), // not in a watched table
		table.Create(&swarmv1.Network{Id: "n1", Spec: &swarmv1.NetworkSpec{Name: "net"}}),
	} {
		index, err := s.Commit(ctx, "test", change)
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.CatchUp(ctx, index)
		if err != nil || len(b.Changes) != want || b.View.Index() < index {
			t.Errorf("catch up to %d: got %d changes, %v, want %d", index, len(b.Changes), err, want)
		}
	}
}
