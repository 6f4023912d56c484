package crud

import (
	"errors"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// services is a kind whose objects are marked for removal.
func services() Kind[*swarmv1.Service] {
	return Kind[*swarmv1.Service]{
		Word: "service", ListCommand: "swarm service ls",
		Table:  func(v *table.View) table.Rows[*swarmv1.Service] { return v.Services },
		Name:   func(_ *table.View, s *swarmv1.Service) string { return s.GetName() },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Service] { return One(v.Services.ByName(name)) },
		Subject: func(_ *table.View, s *swarmv1.Service) Subject {
			return Subject{ID: s.GetId(), Names: []string{s.GetName()}}
		},
		Compare: ByName((*swarmv1.Service).GetName),
		Mark:    func(s *swarmv1.Service) { s.PendingDelete = true },
		Marked:  (*swarmv1.Service).GetPendingDelete,
		Awaits:  func(*swarmv1.Service) string { return "its tasks have stopped" },
		TableID: table.Service,
	}
}

// networks is a kind whose objects hold claims, and are deleted at once.
func networks() Kind[*swarmv1.Network] {
	name := func(n *swarmv1.Network) string { return n.GetSpec().GetName() }
	return Kind[*swarmv1.Network]{
		Word: "network", ListCommand: "swarm network ls",
		Table:  func(v *table.View) table.Rows[*swarmv1.Network] { return v.Networks },
		Name:   func(_ *table.View, n *swarmv1.Network) string { return name(n) },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Network] { return One(v.Networks.ByName(name)) },
		Subject: func(_ *table.View, n *swarmv1.Network) Subject {
			return Subject{ID: n.GetId(), Names: []string{name(n)}}
		},
		Compare: ByName(name),
		Claims:  func(_ *table.View, n *swarmv1.Network) []string { return []string{"vni/" + n.GetId()} },
	}
}

func newWriter(t *testing.T) *Writer {
	return NewWriter(slog.New(slog.NewTextHandler(t.Output(), nil)), raftstoretest.New(t))
}

func (w *Writer) createService(t *testing.T, id, name string) error {
	_, err := services().Create(t.Context(), w, name, func(*table.View) (*swarmv1.Service, []*swarmv1.Change, error) {
		return &swarmv1.Service{Id: id, Name: name}, nil, nil
	})
	return err
}

func (w *Writer) createNetwork(t *testing.T, id, name string) error {
	_, err := networks().Create(t.Context(), w, name, func(*table.View) (*swarmv1.Network, []*swarmv1.Change, error) {
		claim := &swarmv1.Claim{Key: "vni/" + id, Owner: id}
		return &swarmv1.Network{Id: id, Spec: &swarmv1.NetworkSpec{Name: name}}, []*swarmv1.Change{table.Create(claim)}, nil
	})
	return err
}

func TestKind_CreateNeedsAFreeName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		if err := w.createService(t, "s1", "web"); err != nil {
			t.Fatal(err)
		}
		for name, says := range map[string]string{
			"web": "create service web: service name web is already taken by service s1: choose another name",
			"Web": "differs only in case from that of service web (s1)",
		} {
			if err := w.createService(t, "s2", name); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v, want %q", name, err, says)
			}
		}
		if n := w.store.View().Services.Len(); n != 1 {
			t.Errorf("%d services, want 1", n)
		}
	})
}

func TestKind_CreateWaitsForTheNameOfARemovedObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		if err := w.createService(t, "s1", "web"); err != nil {
			t.Fatal(err)
		}
		svc, _ := w.store.View().Services.Get("s1")
		for range 2 { // The second time it is marked already.
			if err := services().Remove(t.Context(), w, svc, nil); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		err := w.createService(t, "s2", "web")
		if !errdefs.IsFailedPrecondition(err) || time.Since(began) != RemovalTimeout {
			t.Errorf("got %v after %s, want a refusal after %s", err, time.Since(began), RemovalTimeout)
		}
		began = time.Now()
		time.AfterFunc(time.Second, func() {
			marked, _ := w.store.View().Services.Get("s1")
			if _, err := w.store.Commit(t.Context(), "planner", table.Delete(marked)); err != nil {
				t.Error(err)
			}
		})
		if err := w.createService(t, "s2", "web"); err != nil || time.Since(began) != time.Second {
			t.Errorf("got %v after %s, want the name after a second", err, time.Since(began))
		}
		synctest.Wait() // until Commit has returned
	})
}

func TestKind_UpdateChecksTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		if err := w.createNetwork(t, "n1", "app"); err != nil {
			t.Fatal(err)
		}
		first, _ := w.store.View().Networks.Get("n1")
		edits := 0
		label := func(version uint64, value string) error {
			_, err := networks().Update(t.Context(), w, first, version, func(_ *table.View, n *swarmv1.Network) ([]*swarmv1.Change, error) {
				edits++
				n.Spec.Labels = map[string]string{"label": value}
				return nil, nil
			})
			return err
		}
		if err := label(first.GetMeta().GetVersion(), "a"); err != nil {
			t.Errorf("the newest version: %v", err)
		}
		before := w.store.View().Index()
		if err := label(0, "a"); err != nil || w.store.View().Index() != before {
			t.Errorf("an edit that changes nothing: %v, index %d, want %d", err, w.store.View().Index(), before)
		}
		if err := label(first.GetMeta().GetVersion(), "b"); !errdefs.IsAborted(err) || !strings.Contains(err.Error(), "network app was changed meanwhile") {
			t.Errorf("an old version: got %v, want a refusal", err)
		}
		if err := label(0, "b"); err != nil {
			t.Errorf("no version: %v", err)
		}
		if edits != 3 {
			t.Errorf("%d edits, want 3", edits)
		}
		now, _ := w.store.View().Networks.Get("n1")
		if now.GetSpec().GetLabels()["label"] != "b" || first.GetSpec().GetLabels() != nil {
			t.Errorf("stored %v, and the old row is %v", now, first)
		}
	})
}

// Of two edits that are made from one view, the second is repeated if the caller named no version.
func TestKind_UpdateIsRepeatedWhenAnotherWasFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		if err := w.createNetwork(t, "n1", "app"); err != nil {
			t.Fatal(err)
		}
		found, _ := w.store.View().Networks.Get("n1")
		edits := 0
		_, err := networks().Update(t.Context(), w, found, 0, func(_ *table.View, n *swarmv1.Network) ([]*swarmv1.Change, error) {
			if edits++; edits == 1 {
				other := n.CloneVT()
				other.Vni = 7
				if _, err := w.store.Commit(t.Context(), "another", table.Update(other)); err != nil {
					return nil, err
				}
			}
			n.Spec.Internal = true
			return nil, nil
		})
		now, _ := w.store.View().Networks.Get("n1")
		if err != nil || edits != 2 || now.GetVni() != 7 || !now.GetSpec().GetInternal() {
			t.Errorf("got %v, %v after %d edits; want both changes after 2", now, err, edits)
		}
	})
}

func TestKind_RemoveGivesTheClaimsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		for _, id := range []string{"n1", "n2"} {
			if err := w.createNetwork(t, id, "net-"+id); err != nil {
				t.Fatal(err)
			}
		}
		found, _ := w.store.View().Networks.Get("n1")
		inUse := errors.New("in use")
		err := networks().Remove(t.Context(), w, found, func(*table.View, *swarmv1.Network) ([]*swarmv1.Change, error) { return nil, inUse })
		if !errors.Is(err, inUse) {
			t.Errorf("got %v, want the refusal", err)
		}
		for range 2 { // The second time it is gone already.
			if err := networks().Remove(t.Context(), w, found, nil); err != nil {
				t.Error(err)
			}
		}
		var left []string
		for c := range w.store.View().Claims.All() {
			left = append(left, c.GetKey())
		}
		if diff := cmp.Diff([]string{"vni/n2"}, left); diff != "" || w.store.View().Networks.Len() != 1 {
			t.Errorf("%d networks, claims -want +got:\n%s", w.store.View().Networks.Len(), diff)
		}
	})
}

func TestKind_ListIsFilteredAndOrdered(t *testing.T) {
	v := raftstoretest.View(
		&swarmv1.Service{Id: "1", Name: "web"}, &swarmv1.Service{Id: "2", Name: "api"}, &swarmv1.Service{Id: "3", Name: "db"}, &swarmv1.Service{Id: "4", Name: "apx"},
	)
	for _, c := range []struct {
		filter *swarmv1.Filter
		want   []string
	}{
		{nil, []string{"api", "apx", "db", "web"}},
		{&swarmv1.Filter{NamePrefixes: []string{"ap"}}, []string{"api", "apx"}},
		{&swarmv1.Filter{Names: []string{"nobody"}}, nil},
	} {
		var got []string
		for _, s := range services().List(v, c.filter) {
			got = append(got, s.GetName())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.filter, got, c.want)
		}
	}
}
