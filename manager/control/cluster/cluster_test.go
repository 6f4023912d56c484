package cluster_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// addCredential writes the row of a user's credential, as the certificate authority does.
func addCredential(r *controltest.Rig, id, name string) string {
	r.T.Helper()
	r.Commit(table.Create(&swarmv1.Credential{Id: id, Name: name, Issuer: "local uid 0", Until: timestamppb.New(time.Now().Add(time.Hour))}))
	return id
}

func TestControl_ClusterShowsTokensAndNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		before, err := r.Control.GetCluster(t.Context(), &swarmv1.GetRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if before.GetRootCa().GetJoinTokens().GetWorker() == "" || before.GetRootCa().GetSigningKey() != nil || before.GetGossipKeys()[0].GetKey() != nil {
			t.Error("a cluster is shown with join tokens and without keys")
		}
		after, err := r.Control.UpdateCluster(t.Context(), &swarmv1.UpdateClusterRequest{RotateWorkerToken: true})
		if err != nil {
			t.Fatal(err)
		}
		if after.GetRootCa().GetJoinTokens().GetWorker() == before.GetRootCa().GetJoinTokens().GetWorker() {
			t.Error("the worker token was not rotated")
		}
		if c := r.Store.View().Cluster(); len(c.GetRootCa().GetSigningKey()) == 0 || len(c.GetGossipKeys()[0].GetKey()) != 32 {
			t.Error("the stored cluster has lost its keys")
		}
	})
}

func TestControl_FindsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		id := addCredential(r, strings.Repeat("a", 25), "jane")
		named := addCredential(r, strings.Repeat("b", 25), id[:6]) // a name that looks like the beginning of an id
		for ref, class := range map[string]func(error) bool{"": errdefs.IsInvalidArgument, id[:3]: errdefs.IsNotFound, "nobody": errdefs.IsNotFound} {
			if _, err := r.Control.RemoveCredential(t.Context(), &swarmv1.GetRequest{Id: ref}); !class(err) {
				t.Errorf("remove %q: got %v, want a refusal", ref, err)
			}
		}
		for _, c := range []struct{ ref, want string }{{id[:6], named}, {id[:5], id}} {
			out, err := r.Control.RemoveCredential(t.Context(), &swarmv1.GetRequest{Id: c.ref})
			if err != nil || len(out.GetRemoved()) != 1 || out.GetRemoved()[0].GetId() != c.want {
				t.Errorf("remove %s: got %v, %v, want %s", c.ref, out.GetRemoved(), err, c.want)
			}
		}
	})
}

// Changes of credentials are events, like those of other objects.
func TestControl_TellsOfCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		w, err := r.Control.Watch(t.Context(), &swarmv1.WatchRequest{Filters: []string{"type=credential", "name=jane"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Header(); err != nil {
			t.Fatal(err)
		}
		addCredential(r, strings.Repeat("a", 25), "ann")
		id := addCredential(r, strings.Repeat("b", 25), "jane")
		if _, err := r.Control.RemoveCredential(t.Context(), &swarmv1.GetRequest{Id: "jane"}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []swarmv1.Event_Action{swarmv1.Event_CREATE, swarmv1.Event_REMOVE} {
			e, err := w.Recv()
			if err != nil || e.GetAction() != want || e.GetId() != id || e.GetAttributes()["name"] != "jane" || e.GetAttributes()["issuer"] != "local uid 0" {
				t.Errorf("got %v, %v, want %s of %s", e, err, want, id)
			}
		}
	})
}
