package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// world is what gossip says, and how nodes answer.
type world struct {
	mu       sync.Mutex // guards what follows
	suspects Suspects
	changed  chan struct{}
	answer   map[string]error // nil and absent: connects; errSilent: until the asker gives up

	knocks, at, most int // in all, at this moment, and the most at once

	verdict Verdict // as expect saw it
}

func (w *world) certain(t *testing.T, want ...string) {
	t.Helper()
	if got := w.verdict.Certain; !slices.Equal(got, want) {
		t.Errorf("certain: got %v, want %v", got, want)
	}
}

var errSilent = errors.New("no answer")

func (w *world) say(s Suspects) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suspects = s
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) set(id string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer[id] = err
}

func (w *world) look() (Suspects, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.suspects, w.changed
}

func (w *world) knock(ctx context.Context, id string) error {
	w.mu.Lock()
	err := w.answer[id]
	w.knocks, w.at = w.knocks+1, w.at+1
	w.most = max(w.most, w.at)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.at--
	}()
	if err == errSilent {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func bubble(t *testing.T, test func(w *world, expect func(after time.Duration, dead ...string))) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{changed: make(chan struct{}), answer: map[string]error{}}
		witness := New(Deps{Log: slog.New(slog.DiscardHandler), Suspects: w.look, Knock: w.knock})
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { _ = witness.Run(ctx) })
		test(w, func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			w.verdict, _ = witness.Verdict()
			if got := w.verdict.Dead; !slices.Equal(got, want) {
				t.Errorf("dead: got %v, want %v", got, want)
			}
		})
		cancel()
		ended.Wait()
	})
}

func TestSilenceIsDeath(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.set("n2", errSilent)
		w.say(Suspects{Failed: []string{"n2"}})
		expect(Patience/2, []string{}...)
		expect(Patience/2, "n2")
		// The host comes back before gossip has noticed.
		w.set("n2", nil)
		expect(again + Patience)
		w.say(Suspects{})
		expect(again)
	})
}

// Who answers once is asked for as long again.
func TestLongSilenceIsCertain(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.set("n2", errSilent)
		w.say(Suspects{Failed: []string{"n2"}})
		expect(Certain, "n2")
		w.certain(t)
		w.set("n2", nil)
		expect(again + Patience)
		w.set("n2", errSilent)
		expect(Certain, "n2")
		w.certain(t)
		expect(again+2*Patience, "n2")
		w.certain(t, "n2")
		w.say(Suspects{})
		expect(again + Patience)
		w.certain(t)
	})
}

func TestWhoAnswersLives(t *testing.T) {
	for name, answer := range map[string]error{"connects": nil, "its daemon is gone": syscall.ECONNREFUSED} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world, expect func(time.Duration, ...string)) {
				w.set("n2", answer)
				w.say(Suspects{Failed: []string{"n2"}})
				expect(5 * Patience)
				// Gossip says nothing new when the host dies after all.
				w.set("n2", errSilent)
				expect(again+2*Patience, "n2")
			})
		})
	}
}

func TestGoodbyeIsBelieved(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.say(Suspects{Left: []string{"n3"}})
		expect(0, "n3")
		w.certain(t, "n3")
		w.say(Suspects{})
		expect(0)
	})
}

// Any member can claim that all others have failed, and each that does not answer is asked for ever: neither may make a node
// flood the network.
func TestQuestionsAreFew(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		var ids []string
		for i := range 200 {
			ids = append(ids, fmt.Sprintf("n%03d", i))
			w.set(ids[i], errSilent)
		}
		w.say(Suspects{Failed: ids})
		expect(5*time.Minute, ids...)
		w.certain(t, ids...)
		w.mu.Lock()
		if w.most > atOnce*askers {
			t.Errorf("%d questions at once, want at most %d", w.most, atOnce*askers)
		}
		w.knocks = 0
		w.mu.Unlock()
		expect(10*time.Minute, ids...)
		w.mu.Lock()
		if per := float64(w.knocks) / 200 / 600; per > 0.25 {
			t.Errorf("%.2f questions a second to a node that is dead beyond doubt", per)
		}
		w.knocks = 0
		w.mu.Unlock()
		for _, id := range ids {
			w.set(id, nil)
		}
		expect(2 * seldom)
		w.mu.Lock()
		w.knocks = 0
		w.mu.Unlock()
		expect(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.knocks > 200*11 {
			t.Errorf("%d questions in 10 s to 200 nodes that answer", w.knocks)
		}
	})
}
