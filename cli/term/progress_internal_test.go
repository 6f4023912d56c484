package term

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// lowScreen is a terminal with few lines.
type lowScreen struct {
	bytes.Buffer
	height int
}

func (s *lowScreen) Size() (width, height int, err error) { return 80, s.height, nil }

func (*lowScreen) Raw() (func(), error) { return func() {}, nil }

func (*lowScreen) Resized(context.Context) <-chan struct{} { return nil }

// What is drawn fits the terminal: lines that have scrolled out of it cannot be drawn anew.
func TestView_FitsTheTerminal(t *testing.T) {
	p := Progress{Name: "web", Desired: 15, Note: "rollback: x", Verifying: true}
	for range 15 {
		p.Tasks = append(p.Tasks, TaskProgress{Label: "1/15", State: "running"})
	}
	for height, want := range map[int]int{8: 3, 18: 3, 19: 18, 50: 18} {
		screen := &lowScreen{height: height}
		NewView(screen, false).Show(p)
		if got := strings.Count(screen.String(), "\n"); got != want {
			t.Errorf("%d lines high: got %d lines, want %d", height, got, want)
		}
	}
}
