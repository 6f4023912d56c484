package tasks

import (
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// On networks with a name server, names are looked up as they are first, unless the service sets
// ndots.
func TestResolvConf_SearchDomainsComeSecond(t *testing.T) {
	served := engine.Attached{Nameservers: []string{"127.0.0.11"}}
	for _, tc := range []struct {
		name     string
		attached engine.Attached
		options  []string
		want     string
		first    bool
	}{
		{"plain", served, []string{"timeout:1"}, "options timeout:1 ndots:0\n", false},
		{"ndots set", served, []string{"ndots:2"}, "options ndots:2\n", true},
		{"ndots set to none", served, []string{"ndots:0"}, "options ndots:0\n", false},
		{"the last one counts", served, []string{"ndots:0", "ndots:3"}, "options ndots:0 ndots:3\n", true},
		{"on no overlay", engine.Attached{}, []string{"timeout:1"}, "options timeout:1\n", false},
	} {
		spec := &swarmv1.ContainerSpec{DnsConfig: &swarmv1.DNSConfig{Options: tc.options, Search: []string{"corp.example"}}}
		got := etc{spec: spec, attached: tc.attached}.resolvConf()
		if !strings.HasSuffix(got, "search corp.example\n"+tc.want) {
			t.Errorf("%s: got %q, want it to end with %q", tc.name, got, tc.want)
		}
		if searchFirst(spec) != tc.first {
			t.Errorf("%s: searchFirst: got %t, want %t", tc.name, !tc.first, tc.first)
		}
	}
}
