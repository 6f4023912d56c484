//go:build linux

// Package watchdog ends downloads that stall or are too slow, so that a single source cannot delay
// the pull of an image for ever.
//
// Packages registry and peer call it for every blob. It runs no goroutine.
package watchdog

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// Timeout is how long a source may take for the next pieceSize bytes of a body. A source that
	// delivers single bytes from time to time therefore counts as stalled.
	Timeout   = 30 * time.Second
	pieceSize = 16 << 10
	// credit is the time that a source has in addition to the time that its bytes take at
	// Body.Rate.
	credit = 10 * time.Second
)

// Body is the body of a response. It is read by one goroutine.
type Body struct {
	io.ReadCloser // set by the caller of Watch when it has the response
	// Rate is how many bytes a second the source must deliver on average. 0: there is no limit. It
	// must be set before the first Read.
	Rate int64

	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
	begun  bool          // the first bytes were delivered
	piece  int           // bytes that were delivered since the timer was set
	all    int64         // bytes that were delivered
	waited time.Duration // the time that the reads of all these bytes took
}

var (
	// ErrStalled says that a source delivered nothing, or less than pieceSize bytes, for Timeout.
	ErrStalled = errdefs.ErrUnavailable.WithMessage("it delivers nothing")
	// ErrSlow says that a source delivered less than the demanded rate.
	ErrSlow = errdefs.ErrUnavailable.WithMessage("it delivers too slowly")
)

// Watch returns a context for a request and the body of its response. The context ends when the
// response has not begun to arrive within first, or when the body stalls or is slow later on. The
// caller sets ReadCloser when the response is there, and calls Close, or Stop if there is no
// response.
func Watch(ctx context.Context, first time.Duration) (context.Context, *Body) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &Body{cancel: cancel, cause: func() error { return context.Cause(ctx) }, timer: time.AfterFunc(first, func() { cancel(ErrStalled) })}
}

// Read implements io.Reader. It returns ErrStalled and ErrSlow.
func (w *Body) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := w.ReadCloser.Read(p)
	w.all += int64(n)
	w.waited += time.Since(began)
	if w.Rate > 0 && err == nil && w.waited > credit+time.Duration(w.all)*time.Second/time.Duration(w.Rate) {
		w.cancel(ErrSlow)
		return n, ErrSlow
	}
	w.piece += n
	if w.piece >= pieceSize || n > 0 && !w.begun {
		w.begun, w.piece = true, 0
		w.timer.Reset(Timeout)
	}
	return n, w.Explain(err)
}

// Reset gives the source the time d, from now on, to deliver the next bytes.
func (w *Body) Reset(d time.Duration) { w.timer.Reset(d) }

// Explain returns ErrStalled instead of err if the context of Watch ended because of a stall.
func (w *Body) Explain(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(w.cause(), ErrStalled) {
		return ErrStalled
	}
	return err
}

// Close ends the watch and closes the body.
func (w *Body) Close() error {
	w.Stop()
	return w.ReadCloser.Close()
}

// Stop ends the watch and its context.
func (w *Body) Stop() {
	w.timer.Stop()
	w.cancel(nil)
}
