//go:build linux

package vip_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/overlay/vip"
)

func TestUpdateChangesWhatItNames(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	update := func(gone []netip.Addr, changed ...vip.Service) error {
		return w.balancer.Update(t.Context(), w.path, changed, gone)
	}
	if err := update(nil, service(1, 2)); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("update of a namespace that nobody has programmed: %v", err)
	}
	reached := func(n int) bool {
		_, err := w.ask("tcp", v4(20000+n), 80)
		return err == nil
	}
	check := func(what string, want ...bool) {
		t.Helper()
		for i, has := range want {
			if got := reached(i + 1); got != has {
				t.Errorf("%s: service %d is reached: %t, want %t", what, i+1, got, has)
			}
		}
	}
	w.program(service(1, 2), service(2))
	check("at first", true, false)
	if err := update(nil, service(2, 2)); err != nil {
		t.Fatal(err)
	}
	check("the second has a backend", true, true)
	if err := update(nil, service(1), service(3, 2)); err != nil {
		t.Fatal(err)
	}
	check("the first has none, a third came", false, true, true)
	// Another service may have its addresses at once.
	if err := update([]netip.Addr{v4(20003), v6(20003)}, service(3, 2)); err != nil {
		t.Fatal(err)
	}
	check("named as gone and as there", false, true, true)
	w.flush()
	if err := update([]netip.Addr{v4(20002), v6(20002)}, service(1, 2)); err != nil {
		t.Fatal(err)
	}
	check("after another program's flush", true, false, true)
}
