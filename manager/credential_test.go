package manager_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
)

// credential creates a credential with another credential or at the local socket.
func (r *rig) credential(by transport.AuthInfo, name string, validity time.Duration) transport.AuthInfo {
	r.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		r.t.Fatal(err)
	}
	req := &swarmv1.CreateCredentialRequest{Name: name, Csr: csr}
	if validity > 0 {
		req.Validity = durationpb.New(validity)
	}
	resp, err := swarmv1.NewCAClient(r.dial(by)).CreateCredential(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	cert, err := pki.ParseCert(resp.GetCertificate())
	if err != nil {
		r.t.Fatal(err)
	}
	return transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindUser, ID: name, NotAfter: cert.NotAfter, Cert: cert}}
}

var local = transport.AuthInfo{Local: &transport.LocalUser{}}

func (r *rig) credentials() (out []string) {
	r.t.Helper()
	list, err := r.admin.ListCredentials(r.t.Context(), &swarmv1.ListRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range list.GetCredentials() {
		out = append(out, c.GetName())
	}
	return out
}

func TestManager_RevokesCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reviewed := 0
		r := newRig(t, func(d *manager.Deps) { d.Review = func() { reviewed++ } })
		jane, ann := r.credential(local, "jane", 0), r.credential(local, "ann", 0)
		again := r.credential(local, "jane", time.Hour)
		child := r.credential(jane, "child", 0)
		open := []transport.AuthInfo{jane, ann, again, child}
		for i := range open {
			open[i].Established = true
			if trust, err := r.mgr.Admit(transport.ProtoGRPC, open[i]); err != nil || trust != transport.Full {
				t.Errorf("%s: trust %d, %v", open[i], trust, err)
			}
		}
		synctest.Wait()
		before := reviewed
		client := swarmv1.NewControlClient(r.dial(jane))
		if _, err := client.ListNodes(t.Context(), &swarmv1.ListRequest{}); err != nil {
			t.Fatal(err)
		}
		if got := r.credentials(); !slices.Equal(got, []string{"ann", "child", "jane", "jane"}) {
			t.Errorf("credentials: got %v, want ann, child and two of jane", got)
		}
		out, err := r.admin.RemoveCredential(t.Context(), &swarmv1.GetRequest{Id: "jane"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(out.GetRemoved()) != 2 || len(out.GetIssued()) != 1 || out.GetIssued()[0].GetName() != "child" {
			t.Errorf("removed %v, issued %v; want both of jane, and child", out.GetRemoved(), out.GetIssued())
		}
		if reviewed == before {
			t.Error("the removal of credentials has no connection reviewed")
		}
		for i, stays := range []bool{false, true, false, true} {
			if trust, err := r.mgr.Admit(transport.ProtoGRPC, open[i]); err != nil || (trust == transport.Full) != stays {
				t.Errorf("the open connection %d, of %s: trust %d, %v, want it to stay: %v", i, open[i], trust, err, stays)
			}
		}
		if _, err := client.ListNodes(t.Context(), &swarmv1.ListRequest{}); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("a call with a revoked credential: got %v, want a refusal", err)
		}
		if _, err := swarmv1.NewControlClient(r.dial(child)).ListNodes(t.Context(), &swarmv1.ListRequest{}); err != nil {
			t.Errorf("a call with the credential that is left: %v", err)
		}
	})
}

// The row of an expired credential is removed. The row of another credential stays.
func TestManager_ForgetsCredentialsThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.credential(local, "short", time.Minute)
		r.credential(local, "long", 24*time.Hour)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if got := r.credentials(); !slices.Equal(got, []string{"long", "short"}) {
			t.Errorf("credentials %v after half an hour", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := r.credentials(); !slices.Equal(got, []string{"long"}) {
			t.Errorf("credentials %v after an hour and a half, want long alone", got)
		}
	})
}
