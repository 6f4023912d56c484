package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"strings"
	"time"
)

// interactive runs the lines that it reads, "GUEST COMMAND" or "step NAME", until the input or the
// context ends. It serves to look at machines after their steps, and to repeat a step that failed.
// The reading goroutine ends with the process, because a read of a terminal cannot be interrupted.
func (l *lab) interactive(ctx context.Context, in io.Reader, out io.Writer) error {
	fmt.Fprintf(out, "each line: one of %s, and a shell command; or step, and its name\n", strings.Join(guestNames, " "))
	read := make(chan string)
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			read <- lines.Text()
		}
	}()
	for {
		select {
		case line, ok := <-read:
			if !ok {
				return nil
			}
			name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name == "step" {
				l.repeat(ctx, text)
			}
			for _, g := range l.guests {
				if g.name == name {
					l.interact(ctx, out, g, text)
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// repeat runs one step.
func (l *lab) repeat(ctx context.Context, name string) {
	for _, s := range steps() {
		if s.name != name {
			continue
		}
		if err := new(report).step(ctx, l, s); err != nil {
			log.Print(name, ": ", err)
		}
	}
}

func (l *lab) interact(ctx context.Context, out io.Writer, g *guest, line string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	r, err := g.link.run(ctx, "/bin/sh", "-c", line)
	fmt.Fprintf(out, "%s%s", r.Out, r.Err)
	if err != nil || r.Code != 0 {
		fmt.Fprintf(out, "%s: exit code %d, %v\n", g.name, r.Code, err)
	}
}
