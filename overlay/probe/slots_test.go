//go:build linux

package probe

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2, 1)
		a, err := s.take(t.Context(), "a", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.take(t.Context(), "a", time.Second); !errdefs.IsUnavailable(err) {
			t.Errorf("second slot of a caller: got %v, want unavailable", err)
		}
		b, err := s.take(t.Context(), "b", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.take(t.Context(), "c", time.Second); !errdefs.IsUnavailable(err) {
			t.Errorf("third slot: got %v, want unavailable", err)
		}
		time.AfterFunc(time.Second/2, a)
		c, err := s.take(t.Context(), "c", time.Second)
		if err != nil {
			t.Errorf("slot after the first was released: got %v, want one", err)
		}
		b()
		c()
		c() // A second release does nothing.
		if len(s.callers) != 0 || len(s.all) != 0 {
			t.Errorf("%d callers and %d slots are left", len(s.callers), len(s.all))
		}
	})
}
