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
			t.Errorf("a second one of the same caller: %v, want that there is none", err)
		}
		b, err := s.take(t.Context(), "b", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.take(t.Context(), "c", time.Second); !errdefs.IsUnavailable(err) {
			t.Errorf("a third in all: %v, want that there is none", err)
		}
		time.AfterFunc(time.Second/2, a)
		c, err := s.take(t.Context(), "c", time.Second)
		if err != nil {
			t.Errorf("after the first has ended: %v", err)
		}
		b()
		c()
		c() // once is enough
		if len(s.callers) != 0 || len(s.all) != 0 {
			t.Errorf("%d callers and %d slots are left", len(s.callers), len(s.all))
		}
	})
}
