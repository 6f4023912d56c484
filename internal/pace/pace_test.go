package pace_test

import (
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/pace"
)

func TestEach_Take(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace.New[int](pace.Budget{Burst: 3, Period: time.Second})
		all := func() {
			t.Helper()
			for i := range 3 {
				if w := p.Take(1); w != 0 {
					t.Errorf("number %d of 3 at once waits %v", i+1, w)
				}
			}
			if w := p.Take(1); w != time.Second {
				t.Errorf("the next waits %v, want 1s", w)
			}
		}
		all()
		time.Sleep(time.Second)
		if w := p.Take(1); w != 0 {
			t.Errorf("after a period one waits %v", w)
		}
		if w := p.Take(1); w != time.Second {
			t.Errorf("a second one after a period waits %v, want 1s", w)
		}
		time.Sleep(time.Hour)
		all() // but not more
	})
}

func TestEach_Crowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := pace.New[int](pace.Budget{Burst: 2, Period: time.Minute})
		allowed := func(from, to int) (n int) {
			for who := from; who < to; who++ {
				for range 5 {
					if e.Take(who) == 0 {
						n++
					}
				}
			}
			return n
		}
		if n := allowed(1, 3); n != 4 {
			t.Errorf("two callers did it %d times, want 4", n)
		}
		// With any number of callers, those that are not remembered share one budget.
		if n, most := allowed(1, 6_000), 2*4096+2; n > most {
			t.Errorf("a crowd did it %d times, want at most %d", n, most)
		}
		time.Sleep(time.Hour)
		if n := allowed(200_000, 200_010); n != 20 {
			t.Errorf("after a pause ten new callers did it %d times, want 20", n)
		}
	})
}

func TestEach_TakeN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := pace.New[int](pace.Budget{Burst: 10, Period: time.Second})
		for i, n := range []int{0, 4, 5, 0, 100} { // one action is left for the last call
			if w := e.TakeN(1, n); w != 0 {
				t.Errorf("number %d, of %d, waits %v", i, n, w)
			}
		}
		if w := e.TakeN(1, 0); w != 100*time.Second {
			t.Errorf("with a debt of 99 the next waits %v, want 100s", w)
		}
		time.Sleep(100 * time.Second)
		if w := e.TakeN(1, 1); w != 0 {
			t.Errorf("once the debt is paid the next waits %v", w)
		}
		if w := e.TakeN(1, 1); w != time.Second {
			t.Errorf("the one after waits %v, want 1s", w)
		}
	})
}
