package manager_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

func (w *worker) describe(d *swarmv1.NodeDescription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: d}})
}

// A node keeps the hostname with which it joined until an operator changes it. The hostname in its
// description changes neither lists nor placement.
func TestManager_HostnameIsTheOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		s := serviceSpec("web", 1)
		s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname==vault"}}
		r.create(s)
		shown := func() string {
			info, err := r.admin.GetNode(t.Context(), &swarmv1.GetRequest{Id: a.id})
			if err != nil {
				t.Fatal(err)
			}
			return info.GetNode().GetHostname() + " " + info.GetState().GetDescription().GetHostname()
		}
		a.describe(&swarmv1.NodeDescription{Hostname: "vault", Platform: &swarmv1.Platform{Os: "plan9"}})
		time.Sleep(time.Minute)
		if got := shown(); got != "host-a host-a" || a.running() != 0 {
			t.Errorf("a node that calls itself vault is shown as %s, and has %d tasks; want host-a, and none", got, a.running())
		}
		_, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: a.id, Spec: &swarmv1.NodeSpec{}, Hostname: "a\nb"})
		refused(t, "a hostname of two lines", err, errdefs.IsInvalidArgument, "not allowed")
		if _, err := r.admin.UpdateNode(t.Context(), &swarmv1.UpdateNodeRequest{Id: a.id, Spec: &swarmv1.NodeSpec{}, Hostname: "vault"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := shown(); got != "vault vault" || a.running() != 1 {
			t.Errorf("a node that the operator calls vault is shown as %s, and has %d tasks; want vault, and one", got, a.running())
		}
	})
}

// A session that breaks the protocol ends with the reason, and the node may open another one.
func TestManager_ClosesSessionsThatBreakTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		many := &swarmv1.StatusReport{Sequence: 1}
		for range 3000 {
			many.Updates = append(many.Updates, &swarmv1.TaskStatus{TaskId: "t"})
		}
		for reason, messages := range map[string][]*swarmv1.FromWorker{
			"before report 1 was acknowledged": {
				{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 1}}},
				{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 2}}},
			},
			"status report 7 came after 0": {{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 7}}}},
			"one hello":                    {{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{}}}},
			"assignments 99":               {{Message: &swarmv1.FromWorker_InForce{InForce: &swarmv1.AssignmentsAck{Sequence: 99}}}},
			"3000 statuses":                {{Message: &swarmv1.FromWorker_Status{Status: many}}},
		} {
			w := r.open(id, "host-a")
			synctest.Wait()
			for _, m := range messages {
				w.send(m)
			}
			if err := <-w.done; !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), reason) {
				t.Errorf("the session ended with %v, want %q", err, reason)
			}
		}
	})
}

// A node that opens one session after another must wait, because each session costs the leader a
// write.
func TestManager_SessionsOfANodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		refusals := 0
		for range 40 {
			w := r.open(id, "host-a")
			synctest.Wait()
			select {
			case err := <-w.done:
				if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "too often") {
					t.Errorf("the session ended with %v", err)
				}
				refusals++
			default:
			}
		}
		st, _ := r.store.View().NodeStates.Get(id)
		if refusals == 0 || st.GetSessionEpoch() > 25 {
			t.Errorf("%d sessions of 40 are refused, and %d begun", refusals, st.GetSessionEpoch())
		}
		time.Sleep(5 * time.Second)
		r.open(id, "host-a")
		synctest.Wait()
		if now, _ := r.store.View().NodeStates.Get(id); now.GetSessionEpoch() <= st.GetSessionEpoch() {
			t.Error("the node may open no session any more")
		}
	})
}

// A network can be created although its subnet overlaps a route of a worker; the answer has a
// warning. It cannot be created when the subnet overlaps a route of a manager.
func TestControl_RoutesOfWorkersDoNotBlockNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		routes := []string{"0.0.0.0/0", "10.0.0.0/8"}
		for i := range 200 {
			routes = append(routes, fmt.Sprintf("10.%d.0.0/16", i))
		}
		a.describe(&swarmv1.NodeDescription{Routed: routes})
		synctest.Wait()
		info, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "app"}})
		if err != nil || len(info.GetWarnings()) == 0 || !strings.Contains(info.GetWarnings()[0], "host-a") {
			t.Errorf("got %v, %v, want a network, and a warning that names host-a", info, err)
		}
		own, _ := r.store.View().NodeStates.Get(self)
		own = own.CloneVT()
		own.Description = &swarmv1.NodeDescription{Routed: []string{"10.0.0.0/8"}}
		r.commit(raftstore.Update(own))
		_, err = r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "other"}})
		refused(t, "a pool that a manager routes elsewhere", err, errdefs.IsResourceExhausted, "--subnet")
	})
}

// A pull changes the row of a name to the digest that the manager has resolved, and never to one
// that a node reports. A loaded image keeps its row, and without a digest no row is written.
func TestControl_PullIsByTheManagersDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var moves []string
		known := digests{"docker.io/library/pulled:1": testDigest, "docker.io/library/loaded:1": testDigest}
		r := newRig(t, func(d *manager.Deps) {
			d.Resolver = unreachable{known}
			d.Conn = func(node string) (grpc.ClientConnInterface, error) {
				c := &carrier{node: node, mu: &mu, moves: &moves}
				return serve(t, nodeInfo(self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterWorkerServer(s, c) }, func(context.Context, string) error { return nil }), nil
			}
		})
		a := r.join("host-a")
		old := "sha256:" + strings.Repeat("a", 64)
		for i, row := range []*swarmv1.Image{
			{Name: "docker.io/library/pulled:1", Size: 7}, {Name: "docker.io/library/loaded:1", Size: 7, Loaded: true},
		} {
			row.Id, row.Digest = strings.Repeat(string(rune('a'+i)), 25), old
			r.commit(raftstore.Create(row))
		}
		for _, c := range []struct {
			ref, asked, digest string
			size               int64
		}{
			{"pulled:1", "docker.io/library/pulled:1@" + testDigest, testDigest, 0},
			{"loaded:1", "docker.io/library/loaded:1@" + old, old, 7},
			{"nowhere.example/app:1", "nowhere.example/app:1", "", 0},
		} {
			moves = nil
			first, err := r.admin.PullImage(t.Context(), &swarmv1.PullImageClusterRequest{Reference: c.ref, Nodes: []string{a.id}})
			last, err := drain(t, first, err)
			if err != nil || last.GetImage().GetDigest() != c.digest || len(moves) != 1 || moves[0] != a.id+" pulls "+c.asked {
				t.Errorf("%s: got %v, %v, moves %q; want digest %q, and the node asked for %s", c.ref, last, err, moves, c.digest, c.asked)
			}
			name, _, _ := strings.Cut(c.asked, "@")
			row, ok := r.store.View().ImageByName(name)
			if ok != (c.digest != "") || row.GetDigest() != c.digest || row.GetSize() != c.size {
				t.Errorf("%s: the row is %v", c.ref, row)
			}
		}
		for img := range r.store.View().Images.All() {
			if strings.Contains(img.GetName(), "other") || img.GetDigest() == otherDigest {
				t.Errorf("a node's answer became image %v", img)
			}
		}
	})
}

// unreachable is a resolver that can only reach the registry of the images that it has.
type unreachable struct{ digests }

func (u unreachable) Resolve(ctx context.Context, ref, auth string) (string, error) {
	if u.digests[ref] == "" {
		return "", errdefs.ErrUnavailable.WithMessage("no route to the registry")
	}
	return u.digests.Resolve(ctx, ref, auth)
}

// A node that was removed opens one session after another. The rate limit comes before anything
// that costs.
func TestManager_SessionsOfARemovedNodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		told, paced := 0, 0
		id := ident.NewID()
		for range 40 {
			w := r.open(id, "host-a")
			synctest.Wait()
			switch err := <-w.done; {
			case errdefs.IsPermissionDenied(err):
				told++
			case errdefs.IsResourceExhausted(err):
				paced++
			default:
				t.Errorf("the session ended with %v", err)
			}
		}
		if told == 0 {
			t.Errorf("%d calls are told that the node was removed, %d that they must wait", told, paced)
		}
	})
}

// A node may ask to remove a number of images at once and a few more each second. That does not
// limit another node.
func TestDisks_ReleasesOfANodeArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var digests []string
		for i := range 1000 {
			digests = append(digests, fmt.Sprintf("sha256:%064x", i))
		}
		client := func(host string) swarmv1.DisksClient {
			return swarmv1.NewDisksClient(r.dial(nodeInfo(r.addNode(host))))
		}
		greedy, modest := client("host-a"), client("host-b")
		ask := func(c swarmv1.DisksClient, digests []string) (granted int, err error) {
			answer, err := c.Release(t.Context(), &swarmv1.ReleaseRequest{Digests: digests})
			return len(answer.GetGranted()), err
		}
		before := r.store.View().Index()
		if n, err := ask(greedy, digests); n != 256 || err != nil {
			t.Errorf("a node that asks for 1000 images at once gets leave for %d, %v; want 256", n, err)
		}
		_, err := ask(greedy, digests[256:])
		refused(t, "a node that asks at once again", err, errdefs.IsResourceExhausted, "too often")
		if writes := r.store.View().Index() - before; writes > 300 {
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
