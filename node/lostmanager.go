package node

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// lostManager returns the error for a manager whose files are missing or damaged. It says what the
// operator can do.
func (m *member) lostManager(cause error) error {
	state, dir := m.membership(), m.node.disk.managerDir()
	remedy := "put the newest copy of the files back into " + dir + " and restart the daemon; swarm has deleted nothing, and no other manager has the cluster's state"
	if len(state.Managers) > 1 {
		remedy = fmt.Sprintf("run `swarm node demote %s` and then `swarm node promote %s` on another manager, or put the lost files back into %s (not an older copy) and restart the daemon",
			state.NodeID, state.NodeID, dir)
	}
	return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("this node runs no manager, because acknowledged writes could be lost: %v: %s", cause, remedy))
}

// awaitDemotion reports why this node runs no manager, until it is demoted or ctx ends.
func (m *member) awaitDemotion(ctx context.Context, why error) {
	m.base.Log.Error("this manager does not start; the containers of this node run on", "node", m.membership().NodeID, "err", why)
	m.setManagerRefusal(why)
	defer m.setManagerRefusal(nil)
	for m.membership().Manager {
		select {
		case <-m.roleChanged:
		case <-ctx.Done():
			return
		}
	}
}

func (m *member) setManagerRefusal(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusal = err
	m.changed.Broadcast()
}

// managerRefusal returns why this node runs no manager although it has the role, or nil.
func (m *member) managerRefusal() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refusal
}

// setManagerLog stores the ID of the manager's log durably.
func (m *member) setManagerLog(id string) error {
	m.mu.Lock()
	same := m.state.ManagerLog == id
	m.state.ManagerLog = id
	m.mu.Unlock()
	if same {
		return nil
	}
	return m.saveState()
}

// saveState writes the membership to the disk. Only one call runs at a time and each writes the
// newest state, so an older state never replaces a newer one.
func (m *member) saveState() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	state := m.membership()
	return m.node.disk.save(&state)
}
