package logs

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watcher tells which journals' sources grow, by one inotify instance for all of them.
type watcher struct {
	f *os.File // the inotify instance; reading it parks the goroutine in Go's poller

	mu    sync.Mutex // guards what follows
	byWD  map[int32]*journal
	wdsOf map[*journal][]int32
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watcher{f: os.NewFile(uintptr(fd), "inotify"), byWD: map[int32]*journal{}, wdsOf: map[*journal][]int32{}}, nil
}

// close ends run.
func (w *watcher) close() { _ = w.f.Close() }

// control calls fn with the descriptor, unless it is closed.
func (w *watcher) control(fn func(fd int)) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { fn(int(fd)) })
}

func (w *watcher) add(path string, j *journal) error {
	w.mu.Lock() // held across the call, so that no event comes before its watch is known
	defer w.mu.Unlock()
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
	for _, wd := range w.wdsOf[j] {
		delete(w.byWD, wd)
		_ = w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(wd)) }) // gone with its file already, perhaps
	}
	delete(w.wdsOf, j)
}

// gathering is how long events gather after some have been read. A first line is followed at once; to those who write
// without pause, every line would otherwise cost a wake-up, an event and a small copy. The kernel merges an event with an
// equal one before it, so that few are waiting.
const gathering = 10 * time.Millisecond

// run tells mark of every journal with news, until close or the end of ctx.
func (w *watcher) run(ctx context.Context, mark func(*journal)) error {
	buf := make([]byte, 64<<10)
	timer := time.NewTimer(gathering)
	defer timer.Stop()
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return fmt.Errorf("read inotify: %w", err)
		}
		for _, j := range w.journals(buf[:n]) {
			mark(j)
		}
		timer.Reset(gathering)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// journals finds those that events are about.
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
		if mask&unix.IN_Q_OVERFLOW != 0 { // events were lost: anyone may have news
			for _, j := range w.byWD {
				see(j)
			}
		}
		see(w.byWD[wd])
		events = events[min(len(events), unix.SizeofInotifyEvent+int(name)):]
	}
	return out
}
