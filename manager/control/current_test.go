package control

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"swarm/internal/stale"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// behind is a replica that lags until Latest is called. If it is cut off from the leader, Latest
// fails.
type behind struct {
	*raftstore.Store
	view   *table.View
	cutOff bool
	waits  bool // Latest takes as long as its context allows when cut off
	alone  time.Time
}

func (b *behind) LeaderlessSince() time.Time { return b.alone }

func (b *behind) View() *table.View { return b.view }

func (b *behind) Latest(ctx context.Context) (_ *table.View, err error) {
	if b.cutOff && b.waits {
		<-ctx.Done()
	}
	if b.cutOff {
		return nil, errdefs.ErrUnavailable
	}
	b.view, err = b.Store.Latest(ctx)
	return b.view, err
}

// An object that the replica does not have is looked up again after the replica has caught up. An
// object that it has is returned at once.
func TestCurrentRegistrar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := raftstoretest.New(t)
		if _, err := store.Commit(t.Context(), "test", table.Create(&swarmv1.Service{Id: "s1", Name: "web"})); err != nil {
			t.Fatal(err)
		}
		b := &behind{Store: store, view: store.View()}
		if _, err := store.Commit(t.Context(), "test", table.Create(&swarmv1.Service{Id: "s2", Name: "api"})); err != nil {
			t.Fatal(err)
		}
		asked := 0
		look := func(_ context.Context, req any) (any, error) {
			asked++
			return object.Services().Find(b.View(), req.(string))
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
			_, err := currentRegistrar{store: b}.serveWrite(t.Context(), c.name, look)
			if found := err == nil; found != c.found || asked != c.asked {
				t.Errorf("%s: asked %d times, %v; want %d, found %v", c.what, asked, err, c.asked, c.found)
			}
		}
	})
}

// A read waits for the newest state. Without a leader it answers from the old state, says so, and
// does not wait again while there is no leader.
func TestCurrentRegistrar_Reads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := raftstoretest.New(t)
		b := &behind{Store: store, view: store.View(), waits: true}
		if _, err := store.Commit(t.Context(), "test", table.Create(&swarmv1.Service{Id: "s1", Name: "api"})); err != nil {
			t.Fatal(err)
		}
		look := func(context.Context, any) (any, error) { return b.View().Services.Len(), nil }
		for _, c := range []struct {
			what   string
			cutOff bool
			alone  time.Duration
			accept bool
			want   int
			within time.Duration
			notice string
		}{
			{what: "the caller accepts an old answer", accept: true},
			{what: "no leader answers", cutOff: true, within: readWait, notice: "no contact"},
			{what: "there has been no leader for long", cutOff: true, alone: time.Minute, notice: "no contact"},
			{what: "a leader answers", want: 1},
		} {
			b.cutOff, b.alone = c.cutOff, time.Time{}
			if c.alone > 0 {
				b.alone = time.Now().Add(-c.alone)
			}
			ctx, header := t.Context(), &headerStream{}
			if c.accept {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(stale.Accept, "1"))
			}
			began := time.Now()
			got, err := currentRegistrar{store: b, notice: func() string { return "no contact" }}.serveRead(grpc.NewContextWithServerTransportStream(ctx, header), nil, look)
			if err != nil || got != c.want || time.Since(began) != c.within {
				t.Errorf("%s: got %v, %v after %s, want %d after %s", c.what, got, err, time.Since(began), c.want, c.within)
			}
			if notice := strings.Join(header.Get(stale.Notice), ""); notice != c.notice {
				t.Errorf("%s: got notice %q, want %q", c.what, notice, c.notice)
			}
		}
	})
}

// headerStream keeps the header of an answer.
type headerStream struct {
	grpc.ServerTransportStream
	metadata.MD
}

func (h *headerStream) SetHeader(md metadata.MD) error {
	h.MD = metadata.Join(h.MD, md)
	return nil
}
