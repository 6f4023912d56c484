package node

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
)

// A node whose manager has lost its files stays a member without a manager: its worker runs, its
// files stay, and leave needs --force. A demotion and a promotion give it a new manager.
func TestNode_ManagerWithoutItsLogIsRefused(t *testing.T) {
	r := newRig(t, newCluster(t)).up()
	r.init()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	file := disk{dir: r.cfg.StateDir}
	if m, err := file.load(); err != nil || m.ManagerLog != "log-1" {
		t.Fatalf("membership: %+v, %v; want the ID of the log", m, err)
	}
	r.lost = errdefs.ErrDataLoss.WithMessage("the Raft log is empty")
	r.up()
	eventually.True(t, "info reports the error", func() bool { return r.info().Error != "" })
	info := r.info()
	if info.LocalNodeState != "active" || info.ControlAvailable || !strings.Contains(info.Error, "the Raft log is empty: put the newest copy of the files back into "+file.managerDir()) {
		t.Errorf("info: %v", info)
	}
	_, err := swarmv1.NewControlClient(r.conn).GetCluster(t.Context(), &swarmv1.GetRequest{})
	wantError(t, "a call to the manager", err, func(error) bool { return err != nil }, "the Raft log is empty")
	_, err = r.client.Leave(t.Context(), &swarmv1.LeaveRequest{})
	wantError(t, "leave", err, errdefs.IsDataLoss, "leave --force")
	if _, err := os.Stat(file.managerDir() + "/secrets"); err != nil {
		t.Errorf("the manager's files: %v, want them to stay", err)
	}

	r.lost = nil
	worker, _, _ := r.parts()
	worker.hooks.OnNode(role(swarmv1.NodeSpec_WORKER))
	eventually.True(t, "the manager's files are deleted", func() bool {
		m, err := file.load()
		_, gone := os.Stat(file.managerDir())
		return err == nil && m.ManagerLog == "" && errors.Is(gone, os.ErrNotExist)
	})
	if got := r.info(); got.Error != "" || got.Role != swarmv1.NodeSpec_WORKER {
		t.Errorf("info after the demotion: %v", got)
	}
	worker.hooks.OnNode(role(swarmv1.NodeSpec_MANAGER))
	eventually.True(t, "the promoted node runs a manager", func() bool { return r.info().ControlAvailable })
	_, _, managers := r.parts()
	if got := managers[len(managers)-1].base.Membership.ManagerLog; got != "" {
		t.Errorf("the promoted manager must have log %q, want a new one", got)
	}
}
