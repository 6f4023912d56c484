package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"swarm/internal/pause"
)

// errRebooted is the error of a command whose guest was rebooted before it ended.
var errRebooted = errors.New("the guest was rebooted meanwhile")

// link is this machine's end of a guest's serial port.
type link struct {
	conn net.Conn
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards the fields below, and writes to conn
	boot    string
	booted  chan struct{} // closed at the next greeting
	last    int
	waiting map[int]chan reply
}

// dialLink connects to the socket that qemu makes of the port.
func dialLink(ctx context.Context, socket string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			l := &link{conn: conn, done: make(chan struct{}), booted: make(chan struct{}), waiting: map[int]chan reply{}}
			go l.read()
			return l, nil
		}
		if pause.For(ctx, 50*time.Millisecond) != nil {
			return nil, fmt.Errorf("qemu does not serve the agent's port: %w", err)
		}
	}
}

// close closes the connection and waits for the reader.
func (l *link) close() {
	_ = l.conn.Close()
	<-l.done
}

func (l *link) read() {
	defer close(l.done)
	for lines := bufio.NewReader(l.conn); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			l.end()
			return
		}
		var r reply
		if json.Unmarshal(line, &r) == nil { // An incomplete line of an earlier agent is ignored.
			l.take(r)
		}
	}
}

func (l *link) take(r reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.ID == 0 {
		l.boot = r.Boot
		l.voidLocked()
		close(l.booted)
		l.booted = make(chan struct{})
		return
	}
	if c, ok := l.waiting[r.ID]; ok {
		delete(l.waiting, r.ID)
		c <- r
	}
}

// voidLocked ends every command that waits for its reply.
func (l *link) voidLocked() {
	for id, c := range l.waiting {
		delete(l.waiting, id)
		close(c)
	}
}

func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.voidLocked()
}

// bootID returns the boot id of the agent's last greeting.
func (l *link) bootID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.boot
}

// awaitBoot waits for the greeting of an agent whose boot id is not the given one, and returns its
// boot id.
func (l *link) awaitBoot(ctx context.Context, not string) (string, error) {
	for {
		l.mu.Lock()
		boot, booted := l.boot, l.booted
		l.mu.Unlock()
		if boot != not {
			return boot, nil
		}
		select {
		case <-booted:
		case <-l.done:
			return "", errors.New("qemu has ended")
		case <-ctx.Done():
			return "", fmt.Errorf("no agent has come up: %w", ctx.Err())
		}
	}
}

// run runs a command in the guest until it ends.
func (l *link) run(ctx context.Context, argv ...string) (reply, error) {
	boot, err := l.awaitBoot(ctx, "")
	if err != nil {
		return reply{}, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return reply{}, errors.New("a command in a guest needs a deadline")
	}
	id, answer, err := l.ask(request{Boot: boot, Argv: argv, Timeout: time.Until(deadline)})
	if err != nil {
		return reply{}, err
	}
	select {
	case r, ok := <-answer:
		if !ok {
			return r, fmt.Errorf("%s: %w", strings.Join(argv, " "), errRebooted)
		}
		if r.Failed != "" {
			return r, fmt.Errorf("%s: %s: %s", strings.Join(argv, " "), r.Failed, r.Err)
		}
		return r, nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, id)
		return reply{}, fmt.Errorf("%s: %w", strings.Join(argv, " "), ctx.Err())
	}
}

func (l *link) ask(r request) (int, <-chan reply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	r.ID = l.last
	line, err := json.Marshal(r)
	if err != nil {
		return 0, nil, err
	}
	answer := make(chan reply, 1)
	l.waiting[r.ID] = answer
	_, err = l.conn.Write(append(line, '\n'))
	return r.ID, answer, err
}
