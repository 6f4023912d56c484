//go:build linux

package registry

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/containerd/image/watchdog"
)

func TestRepositoryAndDomain(t *testing.T) {
	for _, c := range []struct{ name, repository, domain string }{
		{"docker.io/library/redis:7", "docker.io/library/redis", "docker.io"},
		{"localhost:5000/app", "localhost:5000/app", "localhost:5000"},
		{"localhost:5000/team/app:1", "localhost:5000/team/app", "localhost:5000"},
	} {
		if r, d := repository(c.name), domain(c.name); r != c.repository || d != c.domain {
			t.Errorf("%s: got %s, %s, want %s, %s", c.name, r, d, c.repository, c.domain)
		}
	}
}

// A download that stalls is worth another attempt.
func TestClass_OfAStall(t *testing.T) {
	if err := Class(watchdog.ErrStalled); !errdefs.IsUnavailable(err) || !errors.Is(err, watchdog.ErrStalled) {
		t.Errorf("got %v, want unavailable", err)
	}
}

// FuzzCredentials parses the header with a user's credentials for a registry.
func FuzzCredentials(f *testing.F) {
	f.Add(base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"p","auth":"YTpi"}`)))
	f.Fuzz(func(t *testing.T, header string) {
		c, err := ParseCredentials(header)
		if err == nil {
			_, _ = c.secret()
		}
	})
}
