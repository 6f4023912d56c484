package manager

import (
	"context"
	"errors"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// dropRevoked closes the connections of users whose credentials are removed, and with them the
// streams that they have open on this manager. Every call is judged by itself; this is for those
// that were let through before.
func (m *Manager) dropRevoked(ctx context.Context) error {
	if m.deps.Drop == nil {
		return nil
	}
	for {
		view, w := m.store.Watch(raftstore.TableCredential)
		// What was removed while nobody watched: users whose credential this replica has not got.
		m.deps.Drop(func(who transport.AuthInfo) bool {
			_, ok := view.Credentials.Get(who.Credential())
			return who.User() != "" && !ok
		})
		err := m.dropRemoved(ctx, w)
		w.Close()
		if !errors.Is(err, raftstore.ErrResync) {
			return err
		}
	}
}

// dropRemoved follows the removals until ctx ends, which gives nil, or until the watcher fails.
func (m *Manager) dropRemoved(ctx context.Context, w *raftstore.Watcher) error {
	for {
		batch, err := w.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		removed := make(map[string]bool)
		for _, c := range batch.Changes {
			if old, _ := c.Old.(*swarmv1.Credential); old != nil && c.New == nil {
				removed[old.GetId()] = true
			}
		}
		if len(removed) > 0 {
			m.deps.Drop(func(who transport.AuthInfo) bool { return removed[who.Credential()] })
		}
	}
}
