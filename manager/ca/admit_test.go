package ca_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/peer"

	"swarm/internal/ident"
	"swarm/internal/pki"
	"swarm/internal/transport"
)

// wrong is a token of the rig's cluster with another secret.
func (r *rig) wrong() pki.Token {
	r.t.Helper()
	token, err := pki.ParseToken(r.tokens().GetWorker())
	if err != nil {
		r.t.Fatal(err)
	}
	token.Secret = ident.Base36(ident.RandomBytes(20), len(token.Secret))
	return token
}

// as is a call that proves a token and comes from an address.
func (r *rig) as(ctx context.Context, token pki.Token, from netip.Addr) context.Context {
	ctx = transport.WithProof(ctx, token)
	p, _ := peer.FromContext(ctx)
	return peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000)), AuthInfo: p.AuthInfo})
}

func TestJoin_RefusesWhoKnowsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old := r.tokens().GetWorker()
		r.rotate(true, false)
		for name, ctx := range map[string]context.Context{
			"no proof":    transport.WithAuthInfo(t.Context(), transport.AuthInfo{Binding: []byte("x")}),
			"no binding":  transport.WithAuthInfo(t.Context(), transport.AuthInfo{Local: &transport.LocalUser{}}),
			"wrong token": transport.WithProof(t.Context(), r.wrong()),
		} {
			if _, err := r.server.Join(ctx, r.request()); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "swarm join-token") {
				t.Errorf("%s: got %v, want a refusal that says what to do", name, err)
			}
		}
		if _, err := r.joinWith(old, r.request()); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "rotated") {
			t.Errorf("rotated token: got %v, want a refusal", err)
		}
		if got := r.server.WrongTokens(); got != 4 {
			t.Errorf("%d wrong tokens are counted, want 4", got)
		}
	})
}

// However many wrong tokens arrive, a manager asks the leader at most once a second. A host with
// the valid token is admitted meanwhile, also from the same address.
func TestJoin_WrongTokensCostTheLeaderLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		began := time.Now()
		const origins, each = 200, 50
		var wg sync.WaitGroup
		for i := range origins {
			for range each {
				wg.Go(func() {
					from := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
					_, err := r.server.Join(r.as(t.Context(), r.wrong(), from), r.request())
					if !errdefs.IsUnauthorized(err) && !errdefs.IsResourceExhausted(err) && !errdefs.IsUnavailable(err) {
						t.Errorf("got %v, want a refusal", err)
					}
				})
			}
		}
		synctest.Wait() // the budgets are spent, and those within them wait
		token, _ := pki.ParseToken(r.tokens().GetWorker())
		if _, err := r.server.Join(r.as(t.Context(), token, netip.MustParseAddr("192.0.2.1")), r.request()); err != nil {
			t.Errorf("join with the token, beside a flood from the same address: %v", err)
		}
		wg.Wait()
		if asked, most := r.server.Asked(), uint64(time.Since(began)/time.Second)+1; asked > most {
			t.Errorf("%d wrong tokens made %d questions to the leader in %v, want %d at most", origins*each, asked, time.Since(began), most)
		}
	})
}

// Wrong tokens of one address are refused at once when there were many; after a while a few more
// are judged.
func TestJoin_WrongTokensOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		judged := func(n int, from string) (judged int) {
			for range n {
				if _, err := r.server.Join(r.as(t.Context(), r.wrong(), netip.MustParseAddr(from)), r.request()); errdefs.IsUnauthorized(err) {
					judged++
				}
			}
			return judged
		}
		first := judged(100, "2001:db8::1")
		if first < 10 || first > 12 {
			t.Errorf("%d wrong tokens at once were judged, want 10, and a little more for the time that it took", first)
		}
		if n := judged(10, "2001:db8::2"); n > 2 {
			t.Errorf("%d of another address of the same network were judged, want none or nearly so", n)
		}
		if n := judged(10, "2001:db8:0:1::1"); n < 10 {
			t.Errorf("%d of another network were judged, want all", n)
		}
		time.Sleep(10 * time.Minute)
		if n := judged(10, "2001:db8::1"); n < 10 {
			t.Errorf("%d were judged after ten minutes, want all", n)
		}
	})
}

func TestJoin_LoopbackWhereTheManagersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigAt(t, "127.0.0.1")
		req := r.request()
		req.Addr, req.Port = "127.0.0.1", 3377
		if _, err := r.joinWorker(req); err != nil {
			t.Errorf("join on loopback in a cluster on loopback: %v", err)
		}
	})
}
