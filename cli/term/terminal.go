package term

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"swarm/internal/printable"
)

// DefaultWidth is where help wraps when it does not go to a terminal.
const DefaultWidth = 80

// Terminal is a stream that a person sits at.
type Terminal interface {
	Size() (width, height int, err error)
	// Raw switches off echo and line editing until restore is called.
	Raw() (restore func(), err error)
	// Resized tells of changes of the size until ctx ends.
	Resized(ctx context.Context) <-chan struct{}
}

// TerminalOf returns nil for what is no terminal. stream is an io.Reader or io.Writer.
func TerminalOf(stream any) Terminal {
	switch s := stream.(type) {
	case Terminal:
		return s
	case *printable.Writer:
		return TerminalOf(s.Unwrap())
	case *os.File:
		if term.IsTerminal(int(s.Fd())) {
			return fileTerminal{int(s.Fd())}
		}
	}
	return nil
}

type fileTerminal struct{ fd int }

func (t fileTerminal) Size() (width, height int, err error) { return term.GetSize(t.fd) }

func (t fileTerminal) Raw() (func(), error) {
	state, err := term.MakeRaw(t.fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(t.fd, state) }, nil
}

func (t fileTerminal) Resized(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case out <- struct{}{}:
			default: // the size is read when the first is taken
			}
		}
	}()
	return out
}
