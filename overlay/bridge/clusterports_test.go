//go:build linux

package bridge_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
)

// Tasks cannot reach the cluster's own ports on any node, but can reach every other port. Tasks
// with HostAccess can reach all.
func TestClusterPorts_TaskCannotReachTheCluster(t *testing.T) {
	w := newWorld(t)
	w.b.BlockClusterPorts(bridge.ClusterPorts{Cluster: 2377, Gossip: 7946, Data: 4789})
	a := w.attach("task-a")
	open, err := w.tryAttach(bridge.Attachment{TaskID: "task-open", HostAccess: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		ns    *netns.Namespace
		ports []int
	}{{w.host, []int{2377, 7946, 80}}, {w.client, []int{2378, 2377, 7946, 80}}} {
		for _, port := range at.ports {
			var l net.Listener
			if err := at.ns.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprint(":", port)); return err }); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}
	}
	reached := func(what string, from *netns.Namespace, want map[string]bool) {
		t.Helper()
		for at, want := range want {
			err := from.Do(func() error {
				c, err := net.DialTimeout("tcp4", at, 5*time.Second)
				if err == nil {
					_ = c.Close()
				}
				return err
			})
			if (err == nil) != want {
				t.Errorf("%s, %s: %v, want it to be reached: %v", what, at, err, want)
			}
		}
	}
	reached("before nodes are known", w.in(a), map[string]bool{
		hostAddr + ":2377": false, "172.30.0.1:2377": false, "172.30.0.1:7946": false, hostAddr + ":80": true,
		clientAddr + ":2377": false, clientAddr + ":7946": false, clientAddr + ":2378": true, clientAddr + ":80": true,
	})
	// Another node serves the cluster on a different port. Its addresses are not known.
	w.do(func() error { return w.b.BlockPeerPorts(t.Context(), []uint16{2377, 2378}) })
	want := map[string]bool{clientAddr + ":2378": false, clientAddr + ":7946": false, clientAddr + ":2377": false, clientAddr + ":80": true}
	reached("a node", w.in(a), want)
	for at := range want {
		want[at] = true
	}
	reached("a node, with host access", w.in(open), want)
	reached("the host, with host access", w.in(open), map[string]bool{hostAddr + ":2377": true})
	reached("a node, by the host itself", w.host, want)
	// Rules that another program has flushed are written again, with the same content.
	w.do(unguard)
	w.do(func() error { return w.b.Check(t.Context()) })
	reached("after a flush", w.in(a), map[string]bool{clientAddr + ":2378": false, hostAddr + ":2377": false, clientAddr + ":80": true})
	// The node leaves.
	w.do(func() error { return w.b.BlockPeerPorts(t.Context(), nil) })
	reached("a port of no node", w.in(a), map[string]bool{clientAddr + ":2378": true, clientAddr + ":2377": false})
}
