package logs

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"swarm/internal/pause"
)

// watcher finds out which journals have sources that grow. It uses one inotify instance for all of
// them. If the host has no inotify instance or watch left, watcher polls the sources: root in a
// container and root of the host share one limit, which containers may have used up.
//
// The package does not use fsnotify, which reads every event as soon as it comes: a container that
// writes without pause would cost a wake-up for every line. See gatherPause.
type watcher struct {
	inotify func() (int, error)
	opened  chan struct{} // closed when the instance exists
	polls   chan struct{} // one token: polled is not empty

	mu     sync.Mutex // guards what follows
	f      *os.File   // the inotify instance; nil: none exists yet
	closed bool
	byWD   map[int32]*journal
	wdsOf  map[*journal][]int32
	polled map[string]*journal // by path
}

func newWatcher(inotify func() (int, error)) *watcher {
	return &watcher{
		inotify: inotify, opened: make(chan struct{}), polls: make(chan struct{}, 1),
		byWD: map[int32]*journal{}, wdsOf: map[*journal][]int32{}, polled: map[string]*journal{},
	}
}

func newInotify() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) }

// close ends run.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.f != nil {
		_ = w.f.Close()
	}
}

// control calls fn with the descriptor, unless it is closed.
func (w *watcher) control(fn func(fd int)) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { fn(int(fd)) })
}

// add begins to watch a file. If that fails, the file is polled until it can be watched.
func (w *watcher) add(path string, j *journal) error {
	w.mu.Lock() // Held during the system call, so that watcher.journals finds the watch of every event.
	defer w.mu.Unlock()
	err := w.addLocked(path, j)
	if err != nil && !w.closed {
		w.polled[path] = j
		w.pollSoon()
	}
	return err
}

func (w *watcher) addLocked(path string, j *journal) error {
	if w.f == nil && !w.closed {
		fd, err := w.inotify()
		if err != nil {
			return fmt.Errorf("inotify: %w", err)
		}
		w.f = os.NewFile(uintptr(fd), "inotify")
		close(w.opened)
	}
	if w.closed {
		return os.ErrClosed
	}
	var wd int
	var err error
	if cerr := w.control(func(fd int) { wd, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	w.byWD[int32(wd)] = j
	w.wdsOf[j] = append(w.wdsOf[j], int32(wd))
	return nil
}

func (w *watcher) drop(j *journal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.polled, func(_ string, of *journal) bool { return of == j })
	for _, wd := range w.wdsOf[j] {
		delete(w.byWD, wd)
		_ = w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(wd)) }) // fails if the file is gone already
	}
	delete(w.wdsOf, j)
}

// pollInterval is the time between two looks at a file that cannot be watched.
const pollInterval = time.Second

func (w *watcher) pollSoon() {
	select {
	case w.polls <- struct{}{}:
	default:
	}
}

// poll calls mark for the journals whose files are not watched, and tries to watch the files, until
// ctx ends.
func (w *watcher) poll(ctx context.Context, mark func(*journal)) {
	for {
		select {
		case <-w.polls:
		case <-ctx.Done():
			return
		}
		if pause.For(ctx, pollInterval) != nil {
			return
		}
		for _, j := range w.rewatch() {
			mark(j)
		}
	}
}

// rewatch tries to watch the polled files, and returns their journals: the files may have grown
// before they were watched.
func (w *watcher) rewatch() []*journal {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*journal
	for path, j := range w.polled {
		all = append(all, j)
		if w.addLocked(path, j) == nil {
			delete(w.polled, path)
		}
	}
	if len(w.polled) > 0 {
		w.pollSoon()
	}
	return all
}

// gatherPause is the pause after events have been read. The first line after a silence is copied
// without delay. Without the pause, every line of a container that writes all the time would cost a
// wake-up, an event and a small copy. During the pause the kernel merges equal events that follow
// each other.
const gatherPause = 10 * time.Millisecond

// run calls mark for every journal whose sources have grown, until close is called or ctx ends.
func (w *watcher) run(ctx context.Context, mark func(*journal)) error {
	select {
	case <-w.opened:
	case <-ctx.Done():
		return nil
	}
	buf := make([]byte, 64<<10)
	timer := time.NewTimer(gatherPause)
	defer timer.Stop()
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return fmt.Errorf("read inotify: %w", err)
		}
		for _, j := range w.journals(buf[:n]) {
			mark(j)
		}
		timer.Reset(gatherPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// journals returns the journals that the events are about.
func (w *watcher) journals(events []byte) []*journal {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[*journal]bool{}
	var out []*journal
	see := func(j *journal) {
		if j != nil && !seen[j] {
			seen[j] = true
			out = append(out, j)
		}
	}
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		name := binary.NativeEndian.Uint32(events[12:])
		if mask&unix.IN_Q_OVERFLOW != 0 { // events were lost, so any source may have grown
			for _, j := range w.byWD {
				see(j)
			}
		}
		see(w.byWD[wd])
		events = events[min(len(events), unix.SizeofInotifyEvent+int(name)):]
	}
	return out
}
