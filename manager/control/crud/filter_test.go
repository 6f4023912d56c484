package crud

import (
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

// The values of one field are alternatives, and all fields must match. An id does not match a name.
func TestMatches_FiltersOfDifferentKeysAreAnded(t *testing.T) {
	web := Subject{ID: "wb8k", Names: []string{"db"}, Labels: []map[string]string{{"a": "b"}}}
	image := Subject{ID: "x1", Digest: "abcd", Names: []string{"web:1"}}
	for _, c := range []struct {
		of   Subject
		f    *swarmv1.Filter
		want bool
	}{
		{web, nil, true},
		{web, &swarmv1.Filter{JobIterations: []uint64{0}}, false},
		{Subject{ID: "t1", IsTask: true, JobIteration: 3}, &swarmv1.Filter{JobIterations: []uint64{3}}, true},
		{Subject{ID: "t1", IsTask: true, JobIteration: 2}, &swarmv1.Filter{JobIterations: []uint64{3}}, false},
		{web, &swarmv1.Filter{IdPrefixes: []string{"wb8"}}, true},
		{web, &swarmv1.Filter{IdPrefixes: []string{"db"}}, false},
		{web, &swarmv1.Filter{NamePrefixes: []string{"wb8"}}, false},
		{web, &swarmv1.Filter{NamePrefixes: []string{"x", "d"}}, true},
		{web, &swarmv1.Filter{IdPrefixes: []string{"wb8"}, NamePrefixes: []string{"web"}}, false},
		{web, &swarmv1.Filter{IdPrefixes: []string{"wb8"}, NamePrefixes: []string{"db"}}, true},
		{web, &swarmv1.Filter{IdPrefixes: []string{"wb8"}, Labels: []string{"a=c"}}, false},
		{web, &swarmv1.Filter{Prefixes: []string{"d"}}, true}, // as older programs ask
		{image, &swarmv1.Filter{IdPrefixes: []string{"sha256:abc"}}, true},
		{image, &swarmv1.Filter{IdPrefixes: []string{"abc"}}, true},
		{image, &swarmv1.Filter{IdPrefixes: []string{"sha256:b"}}, false},
	} {
		if got := Matches(c.f, c.of); got != c.want {
			t.Errorf("%v of %s: got %v", c.f, c.of.ID, got)
		}
	}
}
