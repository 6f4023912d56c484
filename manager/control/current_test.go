package control

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
)

// behind is a replica that has not heard the newest, until it is asked to catch up; cut off from the leader it cannot.
type behind struct {
	*raftstore.Store
	view   *raftstore.View
	cutOff bool
}

func (b *behind) View() *raftstore.View { return b.view }

func (b *behind) Latest(ctx context.Context) (_ *raftstore.View, err error) {
	if b.cutOff {
		return nil, errdefs.ErrUnavailable
	}
	b.view, err = b.Store.Latest(ctx)
	return b.view, err
}

// What a replica has not heard of is no answer before it has caught up; what it knows it says at once.
func TestCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := raftstoretest.New(t)
		if _, err := store.Commit(t.Context(), "test", raftstore.Create(&swarmv1.Service{Id: "s1", Name: "web"})); err != nil {
			t.Fatal(err)
		}
		b := &behind{Store: store, view: store.View()}
		if _, err := store.Commit(t.Context(), "test", raftstore.Create(&swarmv1.Service{Id: "s2", Name: "api"})); err != nil {
			t.Fatal(err)
		}
		asked := 0
		look := func(_ context.Context, req any) (any, error) {
			asked++
			return findService(b.View(), req.(string))
		}
		for _, c := range []struct {
			what, name string
			cutOff     bool
			asked      int
			found      bool
		}{
			{"what is known", "web", false, 1, true},
			{"what is new, without a leader", "api", true, 1, false},
			{"what is new", "api", false, 2, true},
			{"what is new no more", "api", false, 1, true},
			{"what is nowhere", "nope", false, 1, false},
		} {
			asked, b.cutOff = 0, c.cutOff
			_, err := current{store: b}.ask(t.Context(), c.name, look)
			if found := err == nil; found != c.found || asked != c.asked {
				t.Errorf("%s: asked %d times, %v; want %d, found %v", c.what, asked, err, c.asked, c.found)
			}
		}
	})
}
