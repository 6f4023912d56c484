package digest

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

type resolver func(ref string) (string, error)

func (r resolver) Resolve(_ context.Context, ref, _ string) (string, error) { return r(ref) }

// The image that was loaded comes first, then the registry's, then the cluster's.
func TestFinder_Find(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
		store := raftstoretest.New(t)
		for _, img := range []*swarmv1.Image{
			{Id: "1", Name: "docker.io/library/loaded:1", Digest: old, Loaded: true}, {Id: "2", Name: "docker.io/library/known:1", Digest: old},
		} {
			if _, err := store.Commit(t.Context(), "test", table.Create(img)); err != nil {
				t.Fatal(err)
			}
		}
		answers := func(digest string, err error) Resolver {
			return resolver(func(string) (string, error) { return digest, err })
		}
		far := errors.New("no route to host")
		for _, c := range []struct {
			what, name string
			registry   Resolver
			digest     string
			warning    string
			class      func(error) bool
		}{
			{what: "loaded", name: "loaded:1", registry: answers(now, nil), digest: old},
			{what: "the registry has it", name: "known:1", registry: answers(now, nil), digest: now},
			{what: "the cluster has it, the registry cannot be asked", name: "known:1", registry: answers("", far), digest: old},
			{what: "the cluster has it, the registry does not", name: "known:1", registry: answers("", errdefs.ErrNotFound), digest: old},
			{what: "nobody has it", name: "new:1", registry: answers("", errdefs.ErrNotFound), class: errdefs.IsNotFound},
			{what: "the registry refuses", name: "new:1", registry: answers("", errdefs.ErrUnauthenticated), class: errdefs.IsUnauthorized},
			{what: "the registry cannot be asked", name: "new:1", registry: answers("", far), warning: "swarm image load"},
			{what: "the registry answers nonsense", name: "new:1", registry: answers("latest", nil), warning: "names no valid digest"},
			{what: "no registry can be asked", name: "new:1", warning: "this build asks no registry"},
		} {
			img, err := spec.ParseImage(c.name)
			if err != nil {
				t.Fatal(err)
			}
			f := NewFinder(slog.New(slog.NewTextHandler(t.Output(), nil)), store, c.registry)
			digest, warning, err := f.Find(t.Context(), img, "")
			if digest != c.digest || (warning == "") != (c.warning == "") || !strings.Contains(warning, c.warning) ||
				(err == nil) != (c.class == nil) || err != nil && !c.class(err) {
				t.Errorf("%s: got %q, %q, %v; want %q, %q", c.what, digest, warning, err, c.digest, c.warning)
			}
		}
	})
}
