package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"swarm/internal/pause"
)

// lab has the machines of a run, and what steps leave for later ones.
type lab struct {
	dir    string
	binary string // path of swarm on this machine
	guests []*guest
	mu     sync.Mutex // guards before
	// before has the inventory of each guest before swarm was installed.
	before map[string]inventory
}

// newLab creates the network and boots the guests in parallel.
func newLab(ctx context.Context, o options) (_ *lab, err error) {
	l := &lab{binary: o.binary, before: map[string]inventory{}}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	b, err := debian(ctx, o.dir)
	if err != nil {
		return nil, err
	}
	for _, args := range []string{"link set lo up", "link add " + bridge + " type bridge", "addr add " + gateway + "/24 dev " + bridge, "link set " + bridge + " up"} {
		if err := command(ctx, 10*time.Second, "ip", strings.Fields(args)...); err != nil {
			return nil, err
		}
	}
	if l.dir, err = os.MkdirTemp(o.dir, "run-"); err != nil {
		return nil, err
	}
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return nil, err
	}
	disk, err := cargo(ctx, o, l.dir)
	if err != nil {
		return nil, err
	}
	if b.disk, err = filepath.Abs(b.disk); err != nil {
		return nil, err
	}
	for i := range guestNames {
		g, err := startGuest(ctx, o, b, l.dir, disk, i)
		if err != nil {
			return nil, err
		}
		l.guests = append(l.guests, g)
	}
	return l, nil
}

// close turns the guests off and removes their disks.
func (l *lab) close() {
	for _, g := range l.guests {
		g.off()
	}
	if l.dir != "" {
		if err := os.RemoveAll(l.dir); err != nil {
			log.Print(err)
		}
	}
}

// others returns all guests but one.
func (l *lab) others(than *guest) []*guest {
	var others []*guest
	for _, g := range l.guests {
		if g != than {
			others = append(others, g)
		}
	}
	return others
}

// each calls f for every guest, in parallel.
func (l *lab) each(f func(g *guest) error) error {
	errs := make(chan error)
	for _, g := range l.guests {
		go func() { errs <- f(g) }()
	}
	var all error
	for range l.guests {
		all = errors.Join(all, <-errs)
	}
	return all
}

// explain prints state that helps to understand a failure.
func (l *lab) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, g := range l.guests {
		text, _ := os.ReadFile(g.console)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		log.Printf("--- %s's console:\n%s", g.name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		said, err := g.sh(ctx, "journalctl --no-pager -o short-precise -n 60 -u swarm -u swarm-runtime 2>&1; tail -n 40 /var/lib/swarm/*.log 2>/dev/null; swarm node ls; swarm service ls; swarm task ls --no-trunc 2>&1 | head -40")
		log.Printf("--- %s's swarm:\n%s\n%v", g.name, said, err)
	}
}

// eventually calls f until it returns no error, and returns how long that took.
func eventually(ctx context.Context, limit time.Duration, f func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return time.Since(began), nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if pause.For(ctx, 100*time.Millisecond) != nil {
			return 0, fmt.Errorf("not after %v: %w", limit, last)
		}
	}
}
