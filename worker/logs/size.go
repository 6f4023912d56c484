package logs

import (
	"slices"

	"swarm/worker/engine"
)

// Sizes implements engine.LogStore. Logs of retired tasks come first, the oldest of them first.
func (s *Store) Sizes() []engine.LogSize {
	s.mu.Lock()
	journals := make(map[string]*journal, len(s.journals))
	for id, j := range s.journals {
		journals[id] = j
	}
	retired := slices.Clone(s.retired)
	s.mu.Unlock()
	var out []engine.LogSize
	for _, r := range retired {
		delete(journals, r.id)
		out = append(out, engine.LogSize{TaskID: r.id, Bytes: r.bytes, Retired: r.at})
	}
	for id, j := range journals {
		out = append(out, engine.LogSize{TaskID: id, Bytes: j.bytes()})
	}
	return out
}

// Discard implements engine.LogStore.
func (s *Store) Discard(taskID string) {
	s.mu.Lock()
	retired := s.isRetiredLocked(taskID)
	s.mu.Unlock()
	if retired {
		s.remove(taskID)
	}
}
