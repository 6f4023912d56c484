package logs

import (
	"slices"

	"swarm/worker"
)

// Sizes implements worker.LogStore, the logs of history first, oldest first.
func (s *Store) Sizes() []worker.LogSize {
	s.mu.Lock()
	journals := make(map[string]*journal, len(s.journals))
	for id, j := range s.journals {
		journals[id] = j
	}
	retired := slices.Clone(s.retired)
	s.mu.Unlock()
	var out []worker.LogSize
	for _, r := range retired {
		delete(journals, r.id)
		out = append(out, worker.LogSize{TaskID: r.id, Bytes: r.bytes, Retired: r.at})
	}
	for id, j := range journals {
		out = append(out, worker.LogSize{TaskID: id, Bytes: j.bytes()})
	}
	return out
}

// Discard implements worker.LogStore.
func (s *Store) Discard(taskID string) {
	s.mu.Lock()
	retired := s.isRetiredLocked(taskID)
	s.mu.Unlock()
	if retired {
		s.drop(taskID)
	}
}
