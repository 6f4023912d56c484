package spec

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestParseConstraint(t *testing.T) {
	for in, want := range map[string]string{
		"node.id==abc":                    "node.id==abc",
		" node.hostname != db-1 ":         "node.hostname!=db-1",
		"node.role==Manager":              "node.role==Manager",
		"node.platform.os==linux":         "node.platform.os==linux",
		"node.platform.arch!=x86_64":      "node.platform.arch!=x86_64",
		"engine.labels.com.example/x==1":  "engine.labels.com.example/x==1",
		"Node.Labels.Zone==East":          "node.labels.Zone==East",
		"node.labels.security-level!=low": "node.labels.security-level!=low",
	} {
		c, err := ParseConstraint(in)
		if err != nil {
			t.Errorf("ParseConstraint(%q): %v", in, err)
			continue
		}
		if got := c.String(); got != want {
			t.Errorf("ParseConstraint(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestParseConstraint_Refuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "has no operator",
		"node.id":                  "has no operator",
		"node.id=abc":              "has no operator",
		"node.colour==red":         "which nodes do not have",
		"node.labels.==x":          "which nodes do not have",
		"node.labels.a b==x":       "which nodes do not have",
		"node.role==boss":          "use manager or worker",
		"node.labels.zone==":       "has no value",
		"node.labels.zone==a != b": "characters that no node has",
		"node.labels.zone==a=b":    "characters that no node has",
		"node.labels.zone==a\nb":   "characters that no node has",
	} {
		_, err := ParseConstraint(in)
		wantRefusal(t, in, err, want)
	}
}

// wantRefusal checks that an error for the user has the class ErrInvalidArgument, has one line, and
// says what to do.
func wantRefusal(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("%s: accepted, want a refusal with %q", what, want)
	case !errdefs.IsInvalidArgument(err):
		t.Errorf("%s: %v is not ErrInvalidArgument", what, err)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: more than one line: %q", what, err)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s: got %q, want it to contain %q", what, err, want)
	}
}

func TestConstraint_Matches(t *testing.T) {
	for _, c := range []struct {
		constraint, have string
		want             bool
	}{
		{"node.labels.zone==east", "East", true},
		{"node.labels.zone==east", "", false},
		{"node.labels.zone!=east", "", true},
		{"node.platform.arch==x86_64", "amd64", true},
		{"node.platform.arch==arm64", "aarch64", true},
		{"node.platform.arch!=arm64", "aarch64", false},
	} {
		k, err := ParseConstraint(c.constraint)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Matches(c.have); got != c.want {
			t.Errorf("%s on %q: got %v, want %v", c.constraint, c.have, got, c.want)
		}
	}
}

func TestRuns(t *testing.T) {
	have := &swarmv1.Platform{Os: "linux", Architecture: "x86_64"}
	for _, c := range []struct {
		want *swarmv1.Platform
		ok   bool
	}{
		{nil, true},
		{&swarmv1.Platform{Os: "linux"}, true},
		{&swarmv1.Platform{Os: "Linux", Architecture: "amd64"}, true},
		{&swarmv1.Platform{Os: "windows"}, false},
		{&swarmv1.Platform{Os: "linux", Architecture: "arm64"}, false},
	} {
		if got := PlatformMatches(have, c.want); got != c.ok {
			t.Errorf("PlatformMatches(%v): got %v, want %v", c.want, got, c.ok)
		}
	}
}

func FuzzParseConstraint(f *testing.F) {
	f.Add("node.labels.zone==east")
	f.Add("engine.labels.a!=b")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConstraint(s)
		if err != nil {
			return
		}
		again, err := ParseConstraint(c.String())
		if err != nil || again != c {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, c, again, err)
		}
	})
}

func TestParseImage(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for in, want := range map[string]string{
		"redis":                               "docker.io/library/redis:latest",
		"redis:7":                             "docker.io/library/redis:7",
		"redis:7@" + digest:                   "docker.io/library/redis:7@" + digest,
		"redis@" + digest:                     "docker.io/library/redis@" + digest,
		"me/app":                              "docker.io/me/app:latest",
		"registry.example:5000/a/b:1":         "registry.example:5000/a/b:1",
		"localhost/x":                         "localhost/x:latest",
		"index.docker.io/library/redis:7":     "docker.io/library/redis:7",
		"docker.io/library/redis:7@" + digest: "docker.io/library/redis:7@" + digest,
	} {
		got, err := ParseImage(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseImage(%q): got %v, %v, want %q", in, got, err, want)
			continue
		}
		if again, err := ParseImage(got.String()); err != nil || again != got {
			t.Errorf("ParseImage(%q) again: got %v, %v, want %v", got, again, err, got)
		}
	}
	for in, want := range map[string]string{"": "is empty", "UPPER": "is not a reference", "a b": "is not a reference", "x@sha256:12": "is not a reference"} {
		_, err := ParseImage(in)
		wantRefusal(t, in, err, want)
	}
	if img, _ := ParseImage("redis:7"); img.Familiar() != "redis:7" {
		t.Errorf("Familiar: got %q, want redis:7", img.Familiar())
	}
}
