package detector

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

// world is what gossip reports, and how nodes answer.
type world struct {
	mu       sync.Mutex // guards the fields below
	suspects Suspects
	changed  chan struct{}
	answer   map[string]error // by node; nil and absent: connects; errSilent: waits for the end of the context

	probes, running, mostRunning int // probes in all, that run now, and the most that ran at once

	verdict Verdict // as expect last read it
}

// confirmed compares the confirmed nodes of the verdict that expect last read.
func (w *world) confirmed(t *testing.T, want ...string) {
	t.Helper()
	if got := w.verdict.Confirmed; !slices.Equal(got, want) {
		t.Errorf("confirmed: got %v, want %v", got, want)
	}
}

var errSilent = errors.New("no answer")

func (w *world) setSuspects(s Suspects) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.suspects = s
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) setAnswer(id string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer[id] = err
}

func (w *world) read() (Suspects, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.suspects, w.changed
}

func (w *world) probe(ctx context.Context, id string) error {
	w.mu.Lock()
	err := w.answer[id]
	w.probes, w.running = w.probes+1, w.running+1
	w.mostRunning = max(w.mostRunning, w.running)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.running--
	}()
	if err == errSilent {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// bubble runs test in a synctest bubble with a Detector that runs. expect waits, and then compares
// the dead nodes of the verdict.
func bubble(t *testing.T, test func(w *world, expect func(after time.Duration, dead ...string))) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{changed: make(chan struct{}), answer: map[string]error{}}
		detector := New(Deps{Log: slog.New(slog.DiscardHandler), Suspects: w.read, Probe: w.probe})
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { _ = detector.Run(ctx) })
		test(w, func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			w.verdict, _ = detector.Verdict()
			if got := w.verdict.Dead; !slices.Equal(got, want) {
				t.Errorf("dead: got %v, want %v", got, want)
			}
		})
		cancel()
		ended.Wait()
	})
}

func TestSilentNodeIsDead(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.setAnswer("n2", errSilent)
		w.setSuspects(Suspects{Failed: []string{"n2"}})
		expect(ProbeTimeout/2, []string{}...)
		expect(ProbeTimeout/2, "n2")
		// The host answers before gossip reports it as alive.
		w.setAnswer("n2", nil)
		expect(probeInterval + ProbeTimeout)
		w.setSuspects(Suspects{})
		expect(probeInterval)
	})
}

// One answer starts the silence anew.
func TestLongSilenceConfirmsDeath(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.setAnswer("n2", errSilent)
		w.setSuspects(Suspects{Failed: []string{"n2"}})
		expect(ConfirmAfter, "n2")
		w.confirmed(t)
		w.setAnswer("n2", nil)
		expect(probeInterval + ProbeTimeout)
		w.setAnswer("n2", errSilent)
		expect(ConfirmAfter, "n2")
		w.confirmed(t)
		expect(probeInterval+2*ProbeTimeout, "n2")
		w.confirmed(t, "n2")
		w.setSuspects(Suspects{})
		expect(probeInterval + ProbeTimeout)
		w.confirmed(t)
	})
}

func TestAnsweringNodeIsAlive(t *testing.T) {
	for name, answer := range map[string]error{"connects": nil, "its daemon is gone": syscall.ECONNREFUSED} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world, expect func(time.Duration, ...string)) {
				w.setAnswer("n2", answer)
				w.setSuspects(Suspects{Failed: []string{"n2"}})
				expect(5 * ProbeTimeout)
				// Gossip reports no change when the host dies later.
				w.setAnswer("n2", errSilent)
				expect(probeInterval+2*ProbeTimeout, "n2")
			})
		})
	}
}

func TestLeftNodeIsDead(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		w.setSuspects(Suspects{Left: []string{"n3"}})
		expect(0, "n3")
		w.confirmed(t, "n3")
		w.setSuspects(Suspects{})
		expect(0)
	})
}

// Any member can claim that all others have failed, and a silent node is probed for ever. The
// probes must not flood the network.
func TestProbesAreBounded(t *testing.T) {
	bubble(t, func(w *world, expect func(time.Duration, ...string)) {
		var ids []string
		for i := range 200 {
			ids = append(ids, fmt.Sprintf("n%03d", i))
			w.setAnswer(ids[i], errSilent)
		}
		w.setSuspects(Suspects{Failed: ids})
		expect(5*time.Minute, ids...)
		w.confirmed(t, ids...)
		w.mu.Lock()
		if w.mostRunning > maxConcurrent*probeAttempts {
			t.Errorf("%d probes at once, want at most %d", w.mostRunning, maxConcurrent*probeAttempts)
		}
		w.probes = 0
		w.mu.Unlock()
		expect(10*time.Minute, ids...)
		w.mu.Lock()
		if per := float64(w.probes) / 200 / 600; per > 0.25 {
			t.Errorf("%.2f probes a second to a node whose death is confirmed, want at most 0.25", per)
		}
		w.probes = 0
		w.mu.Unlock()
		for _, id := range ids {
			w.setAnswer(id, nil)
		}
		expect(2 * maxProbeInterval)
		w.mu.Lock()
		w.probes = 0
		w.mu.Unlock()
		expect(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.probes > 200*11 {
			t.Errorf("%d probes in 10 s to 200 nodes that answer, want at most 2200", w.probes)
		}
	})
}
