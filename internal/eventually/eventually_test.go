package eventually

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a testing.TB that records the text of a failure.
type recorder struct {
	testing.TB
	said string
}

func (v *recorder) Helper() {}

func (v *recorder) Fatalf(format string, args ...any) {
	v.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// try runs a wait that may end its goroutine, and returns the text of the failure.
func try(wait func(testing.TB)) string {
	v := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait(v)
	}()
	<-done
	return v.said
}

func TestNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		said := try(func(t testing.TB) {
			Nil(t, "the third", func() error {
				if tries++; tries < 3 {
					return errors.New("too early")
				}
				return nil
			})
		})
		if said != "" || tries != 3 {
			t.Errorf("after %d tries: %q", tries, said)
		}
		began := time.Now()
		said = try(func(t testing.TB) { Nil(t, "the end", func() error { return errors.New("goes on") }) })
		if want := "not within 30s: the end: goes on"; said != want || time.Since(began) > timeout+interval {
			t.Errorf("after %s: got %q, want %q", time.Since(began), said, want)
		}
	})
}

func TestTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if said := try(func(t testing.TB) { True(t, "so", func() bool { return true }) }); said != "" {
			t.Errorf("got %q", said)
		}
		if said, want := try(func(t testing.TB) { True(t, "so", func() bool { return false }) }), "not within 30s: so"; said != want {
			t.Errorf("got %q, want %q", said, want)
		}
	})
}
