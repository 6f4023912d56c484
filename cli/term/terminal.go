package term

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"swarm/internal/printable"
)

// DefaultWidth is the width, in columns, of output that does not go to a terminal.
const DefaultWidth = 80

// Terminal is a stream at which a person types and reads.
type Terminal interface {
	// Size returns the size in columns and lines.
	Size() (width, height int, err error)
	// Raw switches off echo and line editing until restore is called.
	Raw() (restore func(), err error)
	// Resized returns a channel that gets a value when the size has changed, until ctx ends.
	Resized(ctx context.Context) <-chan struct{}
}

// TerminalOf returns the terminal behind stream, an io.Reader or io.Writer, or nil if it is none.
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

// Size implements Terminal.
func (t fileTerminal) Size() (width, height int, err error) { return term.GetSize(t.fd) }

// Raw implements Terminal.
func (t fileTerminal) Raw() (func(), error) {
	state, err := term.MakeRaw(t.fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(t.fd, state) }, nil
}

// Resized implements Terminal.
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
			default: // One is waiting to be received; the size is read after that.
			}
		}
	}()
	return out
}
