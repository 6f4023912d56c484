package ident

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestNewID_IsAnIDAndFresh(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := NewID()
		if !IsID(id) {
			t.Fatalf("NewID() = %q: not an id", id)
		}
		if seen[id] {
			t.Fatalf("NewID() = %q twice", id)
		}
		seen[id] = true
	}
}

func TestBase36_PadsAndCuts(t *testing.T) {
	for _, tt := range []struct {
		in    []byte
		width int
		want  string
	}{
		{nil, 3, "000"},
		{[]byte{35}, 3, "00z"},
		{[]byte{36}, 2, "10"},
		{[]byte{0xff, 0xff}, 2, "kf"}, // 65535 = 1ekf
		{[]byte{1}, 0, ""},
	} {
		if got := Base36(tt.in, tt.width); got != tt.want {
			t.Errorf("Base36(%v, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestCheckNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		check func(string) error
		name  string
		why   string // empty: accepted
	}{
		{CheckServiceName, "web", ""},
		{CheckServiceName, "w", ""},
		{CheckServiceName, "stack_web-1", ""},
		{CheckServiceName, "Web--x__y", ""},
		{CheckServiceName, long, ""},
		{CheckServiceName, long + "a", "too long"},
		{CheckServiceName, "", "empty"},
		{CheckServiceName, "-web", "start and end"},
		{CheckServiceName, "web_", "start and end"},
		{CheckServiceName, "we.b", `'.' is not allowed`},
		{CheckServiceName, "wéb", `'é' is not allowed`},
		{CheckServiceName, "a\nb", `'\n' is not allowed`},
		{CheckConfigName, "nginx.conf", ""},
		{CheckConfigName, long + "a", ""},
		{CheckConfigName, long + "aa", "too long"},
		{CheckSecretName, ".env", "start and end"},
		{CheckSecretName, "a/b", "not allowed"},
		{CheckVolumeName, "data.1_", ""},
		{CheckVolumeName, "..", "start with"},
		{CheckVolumeName, "my data", "not allowed"},
		{CheckNetworkName, "front end", "not allowed"},
		{CheckUserName, "jane.doe", ""},
	} {
		err := tt.check(tt.name)
		switch {
		case tt.why == "" && err != nil:
			t.Errorf("%q: got %v, want accepted", tt.name, err)
		case tt.why != "" && (err == nil || !strings.Contains(err.Error(), tt.why)):
			t.Errorf("%q: got %v, want an error with %q", tt.name, err, tt.why)
		case tt.why != "" && !errdefs.IsInvalidArgument(err):
			t.Errorf("%q: %v is no invalid argument", tt.name, err)
		case err != nil && strings.ContainsAny(err.Error(), "\n\r"):
			t.Errorf("%q: %q is more than one line", tt.name, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, bad := range []string{"", "abc", strings.Repeat("A", IDLen), strings.Repeat("a", IDLen+1), strings.Repeat("-", IDLen)} {
		if err := CheckID("node", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("CheckID(%q) = %v, want invalid argument", bad, err)
		}
	}
	if err := CheckID("node", NewID()); err != nil {
		t.Error(err)
	}
}
