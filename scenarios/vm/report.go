package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

// step is one scenario. Its function returns a short text for the report.
type step struct {
	name  string
	limit time.Duration
	run   func(ctx context.Context, l *lab) (saw string, err error)
}

// report is the log of a run.
type report struct{ rows []string }

// steps runs the steps in order, up to the one that is named last.
func (r *report) steps(ctx context.Context, l *lab, last string) error {
	for _, s := range steps() {
		if err := r.step(ctx, l, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == last {
			return nil
		}
	}
	if last != "" {
		return fmt.Errorf("no step is named %q", last)
	}
	return nil
}

func (r *report) step(ctx context.Context, l *lab, s step) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	log.Printf("%s ...", s.name)
	began := time.Now()
	saw, err := s.run(ctx, l)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	log.Printf("%s: %s (%.1f s)", s.name, saw, took)
	r.rows = append(r.rows, fmt.Sprintf("| %s | %s | %.1f |", s.name, saw, took))
	return nil
}

// These markers enclose the part of the document that this program writes.
const (
	partBegins = "<!-- make vm writes from here -->\n"
	partEnds   = "<!-- make vm writes to here -->\n"
)

// write replaces the report in a document.
func (r *report) write(file, revision string, began time.Time) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte("# Verified\n\nWhat is not part of every test run, and when it was last seen to hold.\n\n## `make vm`: whole machines\n\n" + partBegins + partEnds)
	} else if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(partBegins))
	_, after, ok2 := bytes.Cut(rest, []byte(partEnds))
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q to write between", file, strings.TrimSpace(partBegins), strings.TrimSpace(partEnds))
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(partBegins)
	fmt.Fprintf(&b, "Green on %s, revision %s, in %v: %d guests with Debian %s under qemu's software emulation.\n\n",
		began.UTC().Format("2006-01-02 15:04 UTC"), revision, time.Since(began).Round(time.Second), len(guestNames), suite)
	b.WriteString("| step | seen | s |\n|---|---|---|\n" + strings.Join(r.rows, "\n") + "\n")
	b.WriteString(partEnds)
	b.Write(after)
	return os.WriteFile(file, b.Bytes(), 0o644)
}
