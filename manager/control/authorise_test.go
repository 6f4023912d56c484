package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// protocol returns the full names of all RPCs of all services.
func protocol(t *testing.T) []string {
	t.Helper()
	var out []string
	protoregistry.GlobalFiles.RangeFilesByPackage("swarm.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			svc := f.Services().Get(i)
			if svc.Name() == "Resolver" { // Spoken inside one host, over a socket of its own: no node serves it to others.
				continue
			}
			for j := range svc.Methods().Len() {
				out = append(out, "/"+string(svc.FullName())+"/"+string(svc.Methods().Get(j).Name()))
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("the protocol has only %d RPCs", len(out))
	}
	return out
}

func TestRules_NameEveryRPCAndNoOther(t *testing.T) {
	rules := Rules()
	for _, m := range protocol(t) {
		rule, ok := rules[m]
		if !ok {
			t.Errorf("%s has no rule", m)
			continue
		}
		if rule.Verb == "" || rule.Kind == "" || rule.who == 0 {
			t.Errorf("%s: incomplete rule %+v", m, rule)
		}
		delete(rules, m)
	}
	for m := range rules {
		t.Errorf("%s has a rule, but is not in the protocol", m)
	}
}

// TestAuthoriser_Walk tries callers of every kind against every RPC.
func TestAuthoriser_Walk(t *testing.T) {
	now := time.Now()
	members := func(who transport.AuthInfo) (swarmv1.NodeSpec_Role, bool) {
		switch who.NodeID() {
		case "m":
			return swarmv1.NodeSpec_MANAGER, true
		case "w":
			return swarmv1.NodeSpec_WORKER, true
		}
		return 0, false
	}
	node := func(id string, until time.Time) transport.AuthInfo {
		return transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindNode, ID: id, NotAfter: until}}
	}
	root, err := pki.CreateRoot("c1", now)
	if err != nil {
		t.Fatal(err)
	}
	// user is one with a certificate; those of whom the managers have a row are in rows.
	rows := map[string]*swarmv1.Credential{}
	user := func(until time.Time, known bool) transport.AuthInfo {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := pki.CreateCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := root.SignUser(csr, "jane", time.Hour, now)
		if err != nil {
			t.Fatal(err)
		}
		if known {
			rows[pki.Serial(cert)] = &swarmv1.Credential{Id: pki.Serial(cert), Name: "jane", Until: timestamppb.New(until)}
		}
		return transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindUser, ID: "jane", NotAfter: until, Cert: cert}}
	}
	credentials := func(_ context.Context, who transport.AuthInfo) (*swarmv1.Credential, error) {
		return rows[who.Credential()], nil
	}
	const release = "/swarm.v1.Disks/Release"
	people := func(m string) bool { return under(m, "Disks", "Volumes", "Stats") && m != release }
	later, before := now.Add(time.Hour), now.Add(-time.Hour)
	callers := []struct {
		name string
		who  transport.AuthInfo
		may  func(method string) bool
	}{
		{"anonymous", transport.AuthInfo{}, func(m string) bool {
			return m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/Join" || m == "/swarm.v1.Admission/Probe"
		}},
		{"local", transport.AuthInfo{Local: &transport.LocalUser{}}, func(m string) bool {
			return under(m, "Control", "Daemon") || people(m) || under(m, "CA") && !strings.HasSuffix(m, "/Renew") && !strings.HasSuffix(m, "/Join") || m == "/swarm.v1.Doctor/Survey"
		}},
		{"user", user(later, true), func(m string) bool {
			return under(m, "Control") || people(m) || m == "/swarm.v1.Daemon/Info" || m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/CreateCredential"
		}},
		{"expired user", user(before, true), func(string) bool { return false }},
		{"revoked user", user(later, false), func(string) bool { return false }},
		{"user whose row has ended", shorter(user(before, true), later), func(string) bool { return false }},
		{"worker", node("w", later), func(m string) bool {
			return under(m, "Dispatcher") || m == release || m == "/swarm.v1.Doctor/Probe" || m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/Renew"
		}},
		{"expired worker", node("w", before), func(m string) bool { return m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/Renew" }},
		{"manager", node("m", later), func(m string) bool {
			return under(m, "Dispatcher", "Liveness", "Raft", "Worker", "Disk", "NodeVolumes", "NodeStats") || m == release || m == "/swarm.v1.Doctor/Probe" || m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/Renew"
		}},
		{"removed node", node("gone", later), func(m string) bool {
			return m == "/swarm.v1.Dispatcher/Session" || m == "/swarm.v1.CA/Roots" || m == "/swarm.v1.CA/Renew"
		}},
	}
	auth := NewAuthoriser(members, credentials)
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			ctx := transport.WithAuthInfo(t.Context(), c.who)
			for _, m := range protocol(t) {
				err := auth.Authorise(ctx, m)
				switch {
				case c.may(m) && err != nil:
					t.Errorf("%s by %s: %v", m, c.name, err)
				case !c.may(m) && !errdefs.IsPermissionDenied(err) && !errdefs.IsUnauthorized(err):
					t.Errorf("%s by %s: got %v, want a refusal", m, c.name, err)
				}
			}
		})
	}
	if err := auth.Authorise(transport.WithAuthInfo(t.Context(), callers[1].who), "/swarm.v1.Control/Unheard"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("an RPC outside of the table: got %v, want a refusal", err)
	}
	if err := auth.Authorise(t.Context(), "/swarm.v1.CA/Join"); !errdefs.IsUnauthorized(err) {
		t.Errorf("a call through no listener of ours: got %v, want a refusal", err)
	}
}

// shorter returns the caller with a certificate that is valid until the given time.
func shorter(who transport.AuthInfo, until time.Time) transport.AuthInfo {
	who.Peer.NotAfter = until
	return who
}

func under(method string, services ...string) bool {
	for _, s := range services {
		if strings.HasPrefix(method, "/swarm.v1."+s+"/") {
			return true
		}
	}
	return false
}
