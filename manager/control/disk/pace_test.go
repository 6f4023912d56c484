package disk_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

// A node may release a burst of images at once, and then a few each second. That does not limit
// other nodes.
func TestDisks_ReleasesOfANodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		var digests []string
		for i := range 1000 {
			digests = append(digests, fmt.Sprintf("sha256:%064x", i))
		}
		client := func(host string) swarmv1.DisksClient {
			return swarmv1.NewDisksClient(r.Dial(controltest.NodeInfo(r.AddNode(host))))
		}
		greedy, modest := client("host-a"), client("host-b")
		ask := func(c swarmv1.DisksClient, digests []string) (granted int, err error) {
			answer, err := c.Release(t.Context(), &swarmv1.ReleaseRequest{Digests: digests})
			return len(answer.GetGranted()), err
		}
		before := r.Store.View().Index()
		if n, err := ask(greedy, digests); n != 256 || err != nil {
			t.Errorf("a node that asks for 1000 images at once gets leave for %d, %v; want 256", n, err)
		}
		_, err := ask(greedy, digests[256:])
		controltest.Refused(t, "a node that asks at once again", err, errdefs.IsResourceExhausted, "too often")
		if writes := r.Store.View().Index() - before; writes > 300 {
			t.Errorf("a node that asks for 2000 images made %d writes", writes)
		}
		if n, err := ask(modest, digests[:10]); n != 10 || err != nil {
			t.Errorf("another node gets leave for %d of 10, %v", n, err)
		}
		time.Sleep(10 * time.Second)
		if n, err := ask(greedy, digests[256:]); n != 40 || err != nil {
			t.Errorf("ten seconds later the node gets leave for %d more, %v; want 40", n, err)
		}
	})
}
