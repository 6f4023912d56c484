package ca_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
)

// holder returns the context of a call of a node with a certificate.
func holder(t *testing.T, id string, cert *x509.Certificate, until time.Time) context.Context {
	t.Helper()
	return transport.WithAuthInfo(t.Context(), transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindNode, ID: id, NotAfter: until, Cert: cert}})
}

func parse(t *testing.T, certificate []byte) *x509.Certificate {
	t.Helper()
	cert, err := pki.ParseCert(certificate)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// join adds a node and returns its id and certificate.
func (r *rig) join() (string, *x509.Certificate) {
	r.t.Helper()
	joined, err := r.joinWorker(r.request())
	if err != nil {
		r.t.Fatal(err)
	}
	return joined.GetNodeId(), parse(r.t, joined.GetCertificate())
}

func (r *rig) renew(ctx context.Context) (*x509.Certificate, error) {
	r.t.Helper()
	answer, err := r.server.Renew(ctx, &swarmv1.RenewRequest{Csr: csr(r.t), MachineId: "machine-1"})
	if err != nil {
		return nil, err
	}
	return parse(r.t, answer.GetCertificate()), nil
}

func TestRenew_Refusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, cert := r.join()
		other, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		strange, err := x509.MarshalPKIXPublicKey(&other.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		for _, tt := range []struct {
			name    string
			ctx     context.Context
			machine string
			says    string
		}{
			{"nobody", transport.WithAuthInfo(t.Context(), transport.AuthInfo{}), "machine-1", "only a node"},
			{"a removed node", holder(t, "zzzzzzzzzzzzzzzzzzzzzzzzz", cert, now.Add(time.Hour)), "machine-1", "was removed"},
			{"another machine", holder(t, id, cert, now.Add(time.Hour)), "machine-9", "cloned disk"},
			{"another key", holder(t, id, &x509.Certificate{RawSubjectPublicKeyInfo: strange}, now.Add(time.Hour)), "machine-1", "not the one issued last"},
			{"no key", holder(t, id, nil, now.Add(time.Hour)), "machine-1", "not the one issued last"},
			{"expired for too long", holder(t, id, cert, now.Add(-ca.MaxExpired-time.Hour)), "machine-1", "expired 90 days ago, and only 90 days are allowed"},
		} {
			_, err := r.server.Renew(tt.ctx, &swarmv1.RenewRequest{Csr: csr(t), MachineId: tt.machine})
			if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: got %v, want a refusal that says %q", tt.name, err, tt.says)
			}
		}
		last, err := r.renew(holder(t, id, cert, now.Add(-ca.MaxExpired+time.Hour)))
		if err != nil || last.Subject.CommonName != id || time.Until(last.NotAfter) < time.Hour {
			t.Errorf("renew a certificate that expired almost as long ago as may be: %v, %v", last, err)
		}
	})
}

// A key may renew until the key after it has been used. A node that never gets the answer is not
// locked out.
func TestRenew_OnlyTheNewestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, k0 := r.join()
		until := time.Now().Add(time.Hour)
		as := func(cert *x509.Certificate) context.Context { return holder(t, id, cert, until) }
		must := func(cert *x509.Certificate, what string) *x509.Certificate {
			t.Helper()
			next, err := r.renew(as(cert))
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			return next
		}
		refused := func(cert *x509.Certificate, what string) {
			t.Helper()
			if _, err := r.renew(as(cert)); !errdefs.IsPermissionDenied(err) {
				t.Errorf("%s: got %v, want a refusal", what, err)
			}
		}
		seen := func(cert *x509.Certificate) {
			t.Helper()
			if err := ca.RecordKeyUse(t.Context(), r.store, pki.Peer{ID: id, Cert: cert}); err != nil {
				t.Fatal(err)
			}
		}
		lost := must(k0, "first renewal")
		must(k0, "again, because the answer was lost")
		refused(lost, "with the key of the answer that was lost")
		seen(k0) // a session with the old key changes nothing
		must(k0, "a third time")
		k1 := must(k0, "a fourth time")
		seen(k1)
		refused(k0, "with a key whose successor is in use")
		k2 := must(k1, "the next renewal")
		refused(k0, "with a key two generations old")
		k3 := must(k2, "with a key that no session has shown")
		refused(k1, "with a key two generations old")
		seen(k3)
		if n, _ := r.store.View().Nodes.Get(id); len(n.GetPreviousKey()) != 0 || ca.CheckKey(n, pki.Peer{Cert: k3}) != nil || ca.CheckKey(n, pki.Peer{Cert: k2}) == nil {
			t.Errorf("after a session with the newest key the row has the keys %x and %x", n.GetPublicKey(), n.GetPreviousKey())
		}
	})
}
