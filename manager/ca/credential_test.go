package ca_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// local returns the context of a call through the local socket.
func local(ctx context.Context) context.Context {
	return transport.WithAuthInfo(ctx, transport.AuthInfo{Local: &transport.LocalUser{}})
}

// user returns the context of a call with a credential.
func user(ctx context.Context, cert []byte) context.Context {
	c, err := pki.ParseCert(cert)
	if err != nil {
		panic(err)
	}
	return transport.WithAuthInfo(ctx, transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindUser, ID: c.Subject.CommonName, NotAfter: c.NotAfter, Cert: c}})
}

func (r *rig) credential(ctx context.Context, name string, validity time.Duration) (*swarmv1.CreateCredentialResponse, error) {
	r.t.Helper()
	req := &swarmv1.CreateCredentialRequest{Name: name, Csr: csr(r.t)}
	if validity != 0 {
		req.Validity = durationpb.New(validity)
	}
	return r.server.CreateCredential(ctx, req)
}

func TestCreateCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		resp, err := r.credential(local(t.Context()), "jane", 0)
		if err != nil {
			t.Fatal(err)
		}
		bundle, _ := pki.ParseBundle(resp.GetBundle())
		cert, err := pki.ParseCert(resp.GetCertificate())
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetManagers()) != 1 || bundle == nil || cert.Subject.CommonName != "jane" || time.Until(cert.NotAfter) > pki.DefaultValidity {
			t.Errorf("credential of %q until %v, managers %v", cert.Subject.CommonName, cert.NotAfter, resp.GetManagers())
		}
		row, ok := r.store.View().Credentials.Get(pki.Serial(cert))
		if !ok || row.GetName() != "jane" || !row.GetUntil().AsTime().Equal(cert.NotAfter) || row.GetIssuer() != "local uid 0" || row.GetIssuerId() != "" {
			t.Errorf("row %v", row)
		}
		if _, err := r.credential(local(t.Context()), "a b", 0); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a name with a space: got %v, want a refusal", err)
		}
	})
}

// A credential is not valid longer than the credential that creates it, or than a node certificate.
func TestCreateCredential_Lifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		short, err := r.credential(local(t.Context()), "short", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		holder := user(t.Context(), short.GetCertificate())
		const years = 20 * 365 * 24 * time.Hour
		for name, c := range map[string]struct {
			ctx      context.Context
			validity time.Duration
			says     string
		}{
			"twenty years by one of a minute":     {holder, years, "outlast"},
			"two minutes by one of a minute":      {holder, 2 * time.Minute, "outlast"},
			"twenty years by the local socket":    {local(t.Context()), years, "--cert-expiry"},
			"a negative time":                     {local(t.Context()), -time.Minute, "not positive"},
			"a time that wraps round to the past": {holder, 1<<63 - 1, "too long"},
		} {
			if _, err := r.credential(c.ctx, "long", c.validity); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v, want a refusal that says %q", name, err, c.says)
			}
		}
		child, err := r.credential(holder, "child", 0)
		if err != nil {
			t.Fatal(err)
		}
		cert, _ := pki.ParseCert(child.GetCertificate())
		if left := time.Until(cert.NotAfter); left > time.Minute {
			t.Errorf("created by one of a minute and without a wish, it lives %v", left)
		}
		if row, _ := r.store.View().Credentials.Get(pki.Serial(cert)); row.GetIssuer() != "user short" || row.GetIssuerId() == "" {
			t.Errorf("row %v does not name its issuer", row)
		}
	})
}

// A revoked credential cannot create another one, even if its holder was authorised before.
func TestCreateCredential_ByARevokedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		resp, err := r.credential(local(t.Context()), "jane", 0)
		if err != nil {
			t.Fatal(err)
		}
		cert, _ := pki.ParseCert(resp.GetCertificate())
		if _, err := r.store.Commit(t.Context(), "test", table.DeleteKey(table.Credential, pki.Serial(cert))); err != nil {
			t.Fatal(err)
		}
		if _, err := r.credential(user(t.Context(), resp.GetCertificate()), "other", 0); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("got %v, want a refusal", err)
		}
		if n := r.store.View().Credentials.Len(); n != 0 {
			t.Errorf("%d credentials, want none", n)
		}
	})
}
