package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
)

var start = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newRoot(t testing.TB, cluster string) *Root { return must[*Root](t)(CreateRoot(cluster, start)) }

func bundleOf(t testing.TB, certs ...*x509.Certificate) *Bundle {
	return must[*Bundle](t)(NewBundle(certs...))
}

func request(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	key := must[*ecdsa.PrivateKey](t)(NewKey())
	return key, must[[]byte](t)(CreateCSR(key))
}

func nodeCert(t testing.TB, r *Root, id string) *x509.Certificate {
	_, csr := request(t)
	return must[*x509.Certificate](t)(r.SignNode(csr, id, DefaultValidity, start))
}

func TestVerify_NodeAndUser(t *testing.T) {
	root := newRoot(t, "c1")
	bundle := bundleOf(t, root.Cert)
	id := ident.NewID()
	peer, err := Verify([]*x509.Certificate{nodeCert(t, root, id)}, bundle, start)
	if err != nil || peer.Kind != KindNode || peer.ID != id || peer.ClusterID != "c1" || !peer.NotAfter.Equal(start.Add(DefaultValidity)) {
		t.Errorf("node: got %+v, %v", peer, err)
	}
	_, csr := request(t)
	user := must[*x509.Certificate](t)(root.SignUser(csr, id, time.Hour, start))
	peer, err = Verify([]*x509.Certificate{user}, bundle, start)
	if err != nil || peer.Kind != KindUser || peer.ID != id {
		t.Errorf("a user named like a node: got %+v, %v", peer, err)
	}
}

// A manager certificate names its holder a manager, is valid for at least a day, and carries the
// Raft index, whatever the size of the index.
func TestVerify_Manager(t *testing.T) {
	root := newRoot(t, "c1")
	bundle := bundleOf(t, root.Cert)
	id := ident.NewID()
	for _, tt := range []struct {
		issued         uint64
		validity, want time.Duration
	}{
		{0, time.Minute, MinManagerValidity},
		{1, DefaultValidity, DefaultValidity},
		{math.MaxUint64, MinManagerValidity, MinManagerValidity},
	} {
		_, csr := request(t)
		cert := must[*x509.Certificate](t)(root.SignManager(csr, Manager{NodeID: id, Issued: tt.issued}, tt.validity, start))
		peer, err := Verify([]*x509.Certificate{cert}, bundle, start)
		if err != nil || peer.Kind != KindNode || peer.ID != id || !peer.Manager || peer.Issued != tt.issued || !peer.NotAfter.Equal(start.Add(tt.want)) {
			t.Errorf("issued at %d for %s: got %+v, %v", tt.issued, tt.validity, peer, err)
		}
		if !bytes.Equal(peer.PublicKey(), cert.RawSubjectPublicKeyInfo) {
			t.Errorf("issued at %d: the peer has another key than its certificate", tt.issued)
		}
	}
	if peer, err := Verify([]*x509.Certificate{nodeCert(t, root, id)}, bundle, start); err != nil || peer.Manager {
		t.Errorf("a node's certificate: got %+v, %v; want no manager", peer, err)
	}
	if key := (Peer{}).PublicKey(); key != nil {
		t.Errorf("nobody has the key %x", key)
	}
}

func TestVerify_SaysWhatIsWrong(t *testing.T) {
	root, other, stranger := newRoot(t, "c1"), newRoot(t, "c2"), newRoot(t, "c1")
	bundle := bundleOf(t, root.Cert)
	id := ident.NewID()
	good := nodeCert(t, root, id)
	for _, tt := range []struct {
		name string
		cert *x509.Certificate
		at   time.Time
		want error
	}{
		{"just signed, clock behind", good, start.Add(-Backdate + time.Second), nil},
		{"last moment", good, start.Add(DefaultValidity), nil},
		{"expired", good, start.Add(DefaultValidity + time.Second), ErrExpired},
		{"clock far behind", good, start.Add(-2 * Backdate), ErrNotYetValid},
		{"other cluster", nodeCert(t, other, id), start, ErrOtherCluster},
		{"expired and of another cluster", nodeCert(t, other, id), start.Add(2 * DefaultValidity), ErrOtherCluster},
		{"same cluster name, unknown root", nodeCert(t, stranger, id), start, ErrUnknownRoot},
		{"the root itself", root.Cert, start, ErrMalformed},
	} {
		peer, err := Verify([]*x509.Certificate{tt.cert}, bundle, tt.at)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !errdefs.IsUnauthorized(err)) {
			t.Errorf("%s: %q is not one line of class unauthenticated", tt.name, err)
		}
		if wantID := tt.want == nil || errors.Is(tt.want, ErrExpired); wantID != (peer.ID == id) {
			t.Errorf("%s: got id %q", tt.name, peer.ID)
		}
	}
	if _, err := Verify(nil, bundle, start); !errdefs.IsUnauthorized(err) {
		t.Errorf("no certificate: got %v", err)
	}
}

// Our authority might be made to sign other certificates. Only those of the exact shapes are
// accepted.
func TestVerify_RefusesEveryOtherShape(t *testing.T) {
	root := newRoot(t, "c1")
	bundle := bundleOf(t, root.Cert)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	client := both[1:]
	name := pkix.Name{CommonName: "n", Organization: []string{"c1"}}
	user := name
	user.OrganizationalUnit = []string{"user"}
	admin := name
	admin.OrganizationalUnit = []string{"user", "node"}
	for i, tmpl := range []*x509.Certificate{
		{Subject: name, ExtKeyUsage: both},
		{Subject: name, ExtKeyUsage: both, DNSNames: []string{"m"}},
		{Subject: name, ExtKeyUsage: both, DNSNames: []string{"n", "m"}},
		{Subject: name, ExtKeyUsage: client, DNSNames: []string{"n"}},
		{Subject: user, ExtKeyUsage: both, DNSNames: []string{"n"}},
		{Subject: user, ExtKeyUsage: both},
		{Subject: admin, ExtKeyUsage: client},
		{Subject: pkix.Name{Organization: []string{"c1"}}, ExtKeyUsage: both, DNSNames: []string{""}},
	} {
		_, csr := request(t)
		cert, err := root.sign(csr, tmpl, time.Hour, start)
		if err != nil {
			continue // cannot be signed at all
		}
		if _, err := Verify([]*x509.Certificate{cert}, bundle, start); !errors.Is(err, ErrMalformed) {
			t.Errorf("shape %d: got %v, want malformed", i, err)
		}
	}
}

func TestRotation_EveryoneVerifiesEveryone(t *testing.T) {
	old, next := newRoot(t, "c1"), newRoot(t, "c1")
	cross := must[*x509.Certificate](t)(old.CrossSign(next.Cert, start))
	before, during, after := bundleOf(t, old.Cert), bundleOf(t, old.Cert, next.Cert, cross), bundleOf(t, next.Cert)
	id := ident.NewID()
	oldCert, newCert := nodeCert(t, old, id), nodeCert(t, next, id)
	for _, tt := range []struct {
		name   string
		bundle *Bundle
		chain  []*x509.Certificate
		want   error
	}{
		{"during, old", during, []*x509.Certificate{oldCert}, nil},
		{"during, new", during, []*x509.Certificate{newCert}, nil},
		{"before, new with its cross certificate", before, []*x509.Certificate{newCert, cross}, nil},
		{"before, new alone", before, []*x509.Certificate{newCert}, ErrUnknownRoot},
		{"after, new", after, []*x509.Certificate{newCert, cross}, nil},
		{"after, old", after, []*x509.Certificate{oldCert}, ErrUnknownRoot},
	} {
		if _, err := Verify(tt.chain, tt.bundle, start); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := old.CrossSign(newRoot(t, "c2").Cert, start); err == nil {
		t.Error("a root of another cluster was cross-signed")
	}
}

func TestBundle_OrderDoesNotMatter(t *testing.T) {
	a, b := newRoot(t, "c1"), newRoot(t, "c1")
	one, two := bundleOf(t, a.Cert, b.Cert), bundleOf(t, b.Cert, a.Cert, b.Cert)
	if one.Digest() != two.Digest() || !bytes.Equal(one.PEM(), two.PEM()) {
		t.Error("the same roots in another order are another bundle")
	}
	if one.Digest() == bundleOf(t, a.Cert).Digest() || len(one.Digest()) != DigestLen {
		t.Errorf("digest %q", one.Digest())
	}
	again := must[*Bundle](t)(ParseBundle(one.PEM()))
	if again.Digest() != one.Digest() {
		t.Error("PEM and back is another bundle")
	}
	if _, err := NewBundle(a.Cert, newRoot(t, "c2").Cert); err == nil {
		t.Error("roots of two clusters in one bundle")
	}
	if _, err := NewBundle(nodeCert(t, a, ident.NewID())); err == nil {
		t.Error("a node's certificate in a bundle")
	}
}

func TestToken(t *testing.T) {
	root := newRoot(t, "c1")
	token := NewToken(root.Cert)
	got, err := ParseToken(" " + token.String() + "\n")
	if err != nil || got != token {
		t.Fatalf("ParseToken(%q) = %v, %v", token, got, err)
	}
	if token == NewToken(root.Cert) {
		t.Error("two tokens are equal")
	}
	if _, err := token.CheckRoots(bundleOf(t, root.Cert), "10.0.0.9:2377"); err != nil {
		t.Error(err)
	}
	_, err = token.CheckRoots(bundleOf(t, newRoot(t, "c1").Cert), "10.0.0.9:2377")
	if err == nil || !strings.Contains(err.Error(), "does not belong to the cluster at 10.0.0.9:2377") || strings.Contains(err.Error(), token.Secret) {
		t.Errorf("other root: got %v", err)
	}
	s := token.String()
	for _, tt := range []struct{ in, why string }{
		{"", "is empty"},
		{"hello", "does not start with SWMTKN"},
		{"SWMKEY-1-abc", "unlock key"},
		{strings.Replace(s, "-1-", "-2-", 1), `version "2"`},
		{"SWMTKN", "1 parts"},
		{s + "-x", "5 parts"},
		{s[:len(s)-1], "secret of 24 characters"},
		{strings.Replace(s, "-1-", "-1-0", 1), "digest of 51 characters"},
		{s[:len(s)-1] + "A", "a-z and 0-9"},
	} {
		_, err := ParseToken(tt.in)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.why) || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("ParseToken(%q): got %v, want %q", tt.in, err, tt.why)
		}
	}
}

func TestRenewAt_IsHalfLifeAndJitterIsBounded(t *testing.T) {
	cert := nodeCert(t, newRoot(t, "c1"), ident.NewID())
	half, tenth := start.Add(DefaultValidity/2), DefaultValidity/10
	for jitter, want := range map[float64]time.Time{0: half, 1: half.Add(tenth), -1: half.Add(-tenth), 50: half.Add(tenth)} {
		if got := RenewAt(cert, jitter); !got.Equal(want) {
			t.Errorf("RenewAt(%v) = %v, want %v", jitter, got, want)
		}
	}
}

func TestSign_RefusesBadInput(t *testing.T) {
	root := newRoot(t, "c1")
	_, csr := request(t)
	for name, err := range map[string]error{
		"node id":  second(root.SignNode(csr, "web", time.Hour, start)),
		"user":     second(root.SignUser(csr, "a b", time.Hour, start)),
		"validity": second(root.SignNode(csr, ident.NewID(), 0, start)),
		"csr":      second(root.SignNode([]byte("x"), ident.NewID(), time.Hour, start)),
		"flipped":  second(root.SignNode(flip(csr), ident.NewID(), time.Hour, start)),
		"two":      second(root.SignNode(append(bytes.Clone(csr), csr...), ident.NewID(), time.Hour, start)),
	} {
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func flip(pemText []byte) []byte {
	out := bytes.Clone(pemText)
	at := len(out) / 2
	if out[at] == 'A' {
		out[at] = 'B'
	} else {
		out[at] = 'A'
	}
	return out
}

func TestDisk_SavesAtomicallyAndPrivately(t *testing.T) {
	d := Disk{Dir: filepath.Join(t.TempDir(), "tls")}
	if _, _, err := d.Load(); !errdefs.IsNotFound(err) {
		t.Fatalf("empty folder: got %v, want not found", err)
	}
	root := newRoot(t, "c1")
	bundle := bundleOf(t, root.Cert)
	for range 2 { // the second call replaces the first file
		key, csr := request(t)
		want := must[Credential](t)(NewCredential(must[*x509.Certificate](t)(root.SignNode(csr, ident.NewID(), time.Hour, start)), key))
		if err := d.Save(want, bundle); err != nil {
			t.Fatal(err)
		}
		got, roots, err := d.Load()
		if err != nil || !got.Cert.Equal(want.Cert) || !got.Key.Equal(want.Key) || roots.Digest() != bundle.Digest() {
			t.Fatalf("Load = %v, %v", got, err)
		}
	}
	entries := must[[]os.DirEntry](t)(os.ReadDir(d.Dir))
	if len(entries) != 2 {
		t.Errorf("files left: %v", entries)
	}
	for _, e := range entries {
		if info := must[os.FileInfo](t)(e.Info()); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if err := os.WriteFile(filepath.Join(d.Dir, credentialFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Load(); !errdefs.IsInvalidArgument(err) {
		t.Errorf("torn file: got %v", err)
	}
	if err := errors.Join(d.Remove(), d.Remove()); err != nil {
		t.Error(err)
	}
}

func TestRoot_PEMRoundTrip(t *testing.T) {
	a, b := newRoot(t, "c1"), newRoot(t, "c1")
	got, err := ParseRoot(a.CertPEM(), a.KeyPEM())
	if err != nil || !got.Cert.Equal(a.Cert) || got.ClusterID() != "c1" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ParseRoot(a.CertPEM(), b.KeyPEM()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("key of another root: got %v", err)
	}
}

// A proof is valid for one token, one side and one connection.
func TestToken_Proof(t *testing.T) {
	root, err := CreateRoot("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token, here, there := NewToken(root.Cert), []byte("here"), []byte("there")
	proof := token.Proof(SideJoiner, here)
	for name, c := range map[string]struct {
		token   Token
		proof   []byte
		side    Side
		binding []byte
		want    bool
	}{
		"the same":             {token, proof, SideJoiner, here, true},
		"another token":        {NewToken(root.Cert), proof, SideJoiner, here, false},
		"the other side":       {token, proof, SideManager, here, false},
		"another connection":   {token, proof, SideJoiner, there, false},
		"no connection":        {token, token.Proof(SideJoiner, nil), SideJoiner, nil, false},
		"no proof":             {token, nil, SideJoiner, here, false},
		"the beginning of one": {token, proof[:16], SideJoiner, here, false},
	} {
		if got := c.token.Proves(c.proof, c.side, c.binding); got != c.want {
			t.Errorf("%s: proves %t, want %t", name, got, c.want)
		}
	}
	if strings.Contains(string(proof), token.Secret) {
		t.Error("the proof has the secret in it")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("SWMTKN-1-" + strings.Repeat("0", DigestLen) + "-" + strings.Repeat("z", secretLen))
	f.Add("SWMTKN-")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q: error of several lines: %q", s, err)
			}
			return
		}
		if token.String() != strings.TrimSpace(s) {
			t.Errorf("%q parses to %q", s, token)
		}
	})
}

func FuzzParsePEM(f *testing.F) {
	root := newRoot(f, "c1")
	key, csr := request(f)
	cred := Credential{Cert: must[*x509.Certificate](f)(root.SignNode(csr, ident.NewID(), time.Hour, start)), Key: key}
	for _, seed := range [][]byte{root.CertPEM(), csr, cred.PEM(), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := ParseBundle(data); err == nil {
			if again, err := ParseBundle(b.PEM()); err != nil || again.Digest() != b.Digest() {
				t.Errorf("bundle does not survive a round trip: %v", err)
			}
		}
		if c, err := ParseCredential(data); err == nil && !c.Key.PublicKey.Equal(c.Cert.PublicKey) {
			t.Error("a credential of two halves")
		}
		_, _ = ParseCSR(data)
	})
}

// FuzzDER parses certificates and signing requests of strangers. No input may panic, and no
// certificate that the cluster has not signed may give a Peer.
func FuzzDER(f *testing.F) {
	root := newRoot(f, "c1")
	_, csr := request(f)
	cert := must[*x509.Certificate](f)(root.SignManager(csr, Manager{NodeID: ident.NewID(), Issued: 7}, time.Hour, start))
	block, _ := pem.Decode(csr)
	f.Add(cert.Raw)
	f.Add(block.Bytes)
	f.Add(root.Cert.Raw)
	known := map[string]bool{string(cert.Raw): true}
	bundle := must[*Bundle](f)(NewBundle(root.Cert))
	f.Fuzz(func(t *testing.T, der []byte) {
		_, _ = ParseCSR(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}))
		parsed, err := ParseCert(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}))
		if err != nil {
			return
		}
		_, _ = identify(parsed)
		if peer, err := Verify([]*x509.Certificate{parsed}, bundle, start); err == nil && !known[string(parsed.Raw)] {
			t.Errorf("a peer without a certificate of ours: %+v", peer)
		}
		_, _ = ParseBundle(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}))
	})
}
