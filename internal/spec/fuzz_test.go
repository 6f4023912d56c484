package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// FuzzParseImage checks that the full form of an accepted reference parses to the same image.
func FuzzParseImage(f *testing.F) {
	for _, s := range []string{"redis", "me/app:1", "registry.example:5000/a/b@sha256:" + strings.Repeat("0", 64), "[::1]:5000/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		img, err := ParseImage(s)
		if err != nil {
			oneLine(t, s, err)
			return
		}
		again, err := ParseImage(img.String())
		if err != nil || again != img {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, img, again, err)
		}
		_, _ = img.Familiar(), img.Registry()
	})
}

// FuzzSpecs checks that every spec is either refused with an error of one line or completed, and
// that a completed spec comes back unchanged.
func FuzzSpecs(f *testing.F) {
	for kind, m := range []proto.Message{valid(), &swarmv1.NetworkSpec{Name: "n"}, &swarmv1.ClusterSpec{}, &swarmv1.NodeSpec{}, &swarmv1.DataSpec{Name: "s"}, &swarmv1.DataSpec{Name: "c"}} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(kind), data)
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		switch kind % 6 {
		case 0:
			check(t, data, &swarmv1.ServiceSpec{}, Service)
		case 1:
			check(t, data, &swarmv1.NetworkSpec{}, Network)
		case 2:
			check(t, data, &swarmv1.ClusterSpec{}, Cluster)
		case 3:
			check(t, data, &swarmv1.NodeSpec{}, Node)
		case 4:
			check(t, data, &swarmv1.DataSpec{}, SecretKind().Spec)
		case 5:
			check(t, data, &swarmv1.DataSpec{}, ConfigKind().Spec)
		}
	})
}

// check decodes a spec as gRPC does.
func check[M proto.Message](t *testing.T, data []byte, in M, complete func(M) (M, error)) {
	t.Helper()
	if proto.Unmarshal(data, in) != nil {
		return
	}
	out, err := complete(in)
	if err != nil {
		oneLine(t, in, err)
		return
	}
	again, err := complete(out)
	if diff := cmp.Diff(out, again, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v is taken as %v, and that: %v\n%s", in, out, err, diff)
	}
}

func oneLine(t *testing.T, in any, err error) {
	t.Helper()
	if strings.ContainsAny(err.Error(), "\n\r\x1b") {
		t.Errorf("%v: an error of several lines: %q", in, err)
	}
}
