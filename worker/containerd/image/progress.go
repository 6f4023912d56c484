//go:build linux

package image

import (
	"sync"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// reportEvery keeps progress from becoming the traffic.
const reportEvery = 100 * time.Millisecond

// meter counts bytes and tells of them now and then.
type meter struct {
	step string
	tell func(*swarmv1.ImageProgress) // may be nil

	mu      sync.Mutex // guards what follows; held while telling, so that messages stay in order
	current int64
	total   int64
	last    time.Time
}

func newMeter(step string, total int64, tell func(*swarmv1.ImageProgress)) *meter {
	return &meter{step: step, total: total, tell: tell}
}

// expect adds to the total.
func (m *meter) expect(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total += n
}

// add counts bytes; negative when they have to be fetched again.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current += n
	if now := time.Now(); m.tell != nil && now.Sub(m.last) >= reportEvery {
		m.last = now
		m.tellLocked()
	}
}

// flush tells where things stand.
func (m *meter) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked()
}

func (m *meter) tellLocked() {
	if m.tell != nil {
		m.tell(&swarmv1.ImageProgress{Step: m.step, Current: m.current, Total: m.total})
	}
}
