package ca_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
)

// A node that greets with another address than the one with which it joined gets a row with the new
// address. An address with which no host may join is refused.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		req := r.request()
		joined, err := r.joinWorker(req)
		if err != nil {
			t.Fatal(err)
		}
		r.report(joined.GetNodeId())
		other := r.request()
		other.MachineId, other.Hostname, other.Addr, other.DataPathAddr = "machine-2", "host-2", "10.9.0.2", "10.9.1.2"
		second, err := r.joinWorker(other)
		if err != nil {
			t.Fatal(err)
		}
		r.setState(second.GetNodeId(), swarmv1.NodeState_READY)
		for _, c := range []struct {
			name  string
			hello *swarmv1.Hello
			want  string // the addresses, or a part of the error; empty: nothing changes
			down  bool   // the other node
		}{
			{name: "the same", hello: &swarmv1.Hello{Addr: req.GetAddr(), DataPathAddr: req.GetDataPathAddr(), Port: req.GetPort()}},
			{name: "a build that does not say", hello: &swarmv1.Hello{}},
			{name: "another", hello: &swarmv1.Hello{Addr: "10.9.0.7", DataPathAddr: "10.9.0.7", Port: req.GetPort()}, want: "10.9.0.7 10.9.0.7"},
			{name: "another data path", hello: &swarmv1.Hello{Addr: req.GetAddr(), DataPathAddr: "10.9.1.7", Port: req.GetPort()}, want: req.GetAddr() + " 10.9.1.7"},
			{name: "another node's", hello: &swarmv1.Hello{Addr: "10.9.0.2", Port: req.GetPort()}, want: "already that of node " + second.GetNodeId()},
			{name: "another node's data path", hello: &swarmv1.Hello{Addr: "10.9.1.2", Port: req.GetPort()}, want: "already that of node " + second.GetNodeId()},
			{name: "loopback", hello: &swarmv1.Hello{Addr: "127.0.0.1", Port: req.GetPort()}, want: "loopback"},
			{name: "link-local", hello: &swarmv1.Hello{Addr: "169.254.1.1", Port: req.GetPort()}, want: "link-local"},
			{name: "a port of its own", hello: &swarmv1.Hello{Addr: "10.9.0.7", Port: 4377}, want: "port 4377"},
			{name: "that of a node that is down", hello: &swarmv1.Hello{Addr: "10.9.0.2", DataPathAddr: "10.9.0.2", Port: req.GetPort()}, want: "10.9.0.2 10.9.0.2", down: true},
		} {
			if c.down {
				r.setState(second.GetNodeId(), swarmv1.NodeState_DOWN)
			}
			next, err := ca.Moved(r.store.View(), joined.GetNodeId(), c.hello)
			switch {
			case err != nil:
				if c.want == "" || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsAlreadyExists(err) {
					t.Errorf("%s: %v, want %q", c.name, err, c.want)
				}
			case next == nil:
				if c.want != "" {
					t.Errorf("%s: nothing changes, want %q", c.name, c.want)
				}
			default:
				if got := next.GetAddr() + " " + next.GetDataPathAddr(); got != c.want || next.GetId() != joined.GetNodeId() {
					t.Errorf("%s: got %q, want %q", c.name, got, c.want)
				}
			}
		}
	})
}
