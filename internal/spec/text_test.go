package spec

import (
	"slices"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestService_WordsAreBounded(t *testing.T) {
	many := slices.Repeat([]string{"A=b"}, maxTexts)
	long := "A=" + strings.Repeat("x", maxTextBytes)
	for _, c := range []struct {
		name string
		spec *swarmv1.ContainerSpec
		says string
	}{
		{"as many as allowed", &swarmv1.ContainerSpec{Env: many}, ""},
		{"variables", &swarmv1.ContainerSpec{Env: slices.Concat(many, many)}, "has 16384 variables, arguments and labels, at most 8192 are allowed"},
		{"together", &swarmv1.ContainerSpec{Env: many, Args: []string{"one"}}, "has 8193 variables"},
		{"a long variable", &swarmv1.ContainerSpec{Env: []string{long}}, "of 524290 bytes, at most 524288 are allowed"},
		{"a long command", &swarmv1.ContainerSpec{Command: []string{long}}, "of 524290 bytes"},
	} {
		c.spec.Image = "x"
		err := checkContainer(c.spec)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
}
