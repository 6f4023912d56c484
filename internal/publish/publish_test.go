package publish

import (
	"net/netip"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestByMesh(t *testing.T) {
	for mode, want := range map[swarmv1.PortConfig_PublishMode]bool{
		swarmv1.PortConfig_INGRESS: true, swarmv1.PortConfig_LOCAL: true, swarmv1.PortConfig_HOST: false,
	} {
		if got := ByMesh(&swarmv1.PortConfig{PublishMode: mode}); got != want {
			t.Errorf("mode %s: got %v, want %v", mode, got, want)
		}
	}
}

func TestAddress(t *testing.T) {
	for ip, want := range map[string]string{
		"": "", "0.0.0.0": "", "::": "", "no address": "",
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "fd00::1": "fd00::1",
	} {
		got := ""
		if a := Address(&swarmv1.PortConfig{HostIp: ip}); a.IsValid() {
			got = a.String()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", ip, got, want)
		}
	}
}

func TestName(t *testing.T) {
	p := &swarmv1.PortConfig{Protocol: swarmv1.PortConfig_UDP, PublishedPort: 53}
	if got := Name(p); got != "53/udp" {
		t.Errorf("got %q, want 53/udp", got)
	}
}

func TestSame_IgnoresModeAndTarget(t *testing.T) {
	a := &swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080}
	for _, c := range []struct {
		b    *swarmv1.PortConfig
		want bool
	}{
		{&swarmv1.PortConfig{PublishedPort: 80, PublishMode: swarmv1.PortConfig_HOST, HostIp: "0.0.0.0"}, true},
		{&swarmv1.PortConfig{PublishedPort: 81}, false},
		{&swarmv1.PortConfig{PublishedPort: 80, Protocol: swarmv1.PortConfig_UDP}, false},
		{&swarmv1.PortConfig{PublishedPort: 80, HostIp: "192.0.2.7"}, false},
	} {
		if got := Same(a, c.b); got != c.want {
			t.Errorf("%v: got %v, want %v", c.b, got, c.want)
		}
	}
}

func TestServes(t *testing.T) {
	const host = swarmv1.PortConfig_HOST
	fixed := &swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080, PublishMode: host}
	open := &swarmv1.PortConfig{TargetPort: 8080, PublishMode: host}
	for _, c := range []struct {
		got, wanted *swarmv1.PortConfig
		want        bool
	}{
		{&swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080}, fixed, true},
		{&swarmv1.PortConfig{PublishedPort: 81, TargetPort: 8080}, fixed, false},
		{&swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8081}, fixed, false},
		{&swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080, Protocol: swarmv1.PortConfig_UDP}, fixed, false},
		{&swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080, HostIp: "192.0.2.7"}, fixed, false},
		{&swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080}, &swarmv1.PortConfig{PublishedPort: 80, TargetPort: 8080}, false},
		{&swarmv1.PortConfig{PublishedPort: FirstChosen, TargetPort: 8080}, open, true},
		{&swarmv1.PortConfig{PublishedPort: LastChosen, TargetPort: 8080}, open, true},
		{&swarmv1.PortConfig{PublishedPort: FirstChosen - 1, TargetPort: 8080}, open, false},
		{&swarmv1.PortConfig{PublishedPort: LastChosen + 1, TargetPort: 8080}, open, false},
	} {
		if got := Serves(c.got, c.wanted); got != c.want {
			t.Errorf("got %v, want %v: %v for %v", got, c.want, c.got, c.wanted)
		}
	}
}

func TestKey_Strings(t *testing.T) {
	ip := &swarmv1.PortConfig{PublishedPort: 8080, HostIp: "192.0.2.7"}
	for want, k := range map[string]Key{
		"port/ingress/tcp/8080":           MeshKey(swarmv1.PortConfig_TCP, 8080),
		"port/ingress/udp/53/fd00::1":     MeshKey(swarmv1.PortConfig_UDP, 53).At(netip.MustParseAddr("fd00::1")),
		"port/n1/tcp/8080/192.0.2.7":      NodeKey("n1", ip),
		"port/n1/sctp/65535":              NodeKey("n1", &swarmv1.PortConfig{PublishedPort: 65535, Protocol: swarmv1.PortConfig_SCTP}),
		"port/ingress/tcp/8080/192.0.2.7": MeshKey(swarmv1.PortConfig_TCP, 8080).At(Address(ip)),
	} {
		if got := k.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, ok := ParseKey(want); !ok || got != k {
			t.Errorf("parse %s: got %+v, %v", want, got, ok)
		}
		if got := KeyPrefix + "n2/" + k.Suffix(); got != k.On("n2").String() {
			t.Errorf("%s on node n2: got %s, want %s", want, k.On("n2"), got)
		}
		if !strings.HasPrefix(k.At(netip.MustParseAddr("192.0.2.9")).String(), k.AddressPrefix()) {
			t.Errorf("%s: another address of the port does not begin with %s", want, k.AddressPrefix())
		}
	}
}

func TestParseKey_RefusesOtherClaims(t *testing.T) {
	for _, s := range []string{
		"", "port/", "port/ingress/tcp", "port//tcp/80", "port/n1/tcp/0", "port/n1/tcp/65536", "port/n1/tcp/080",
		"port/n1/TCP/80", "port/n1/icmp/80", "port/n1/tcp/80/", "port/n1/tcp/80/x", "port/n1/tcp/80/192.0.2.7/x",
		"addr/n1/10.0.0.2", "vni/65536",
	} {
		if k, ok := ParseKey(s); ok {
			t.Errorf("%q is parsed as %+v", s, k)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("port/ingress/tcp/8080")
	f.Add("port/n1/udp/53/fd00::1")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := ParseKey(s); ok && k.String() != s {
			t.Errorf("%q is parsed as %s", s, k)
		}
	})
}

func TestKey_Conflicts(t *testing.T) {
	key := func(s string) Key {
		k, ok := ParseKey(s)
		if !ok {
			t.Fatalf("%s is not a key", s)
		}
		return k
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"port/n1/tcp/80", "port/n1/tcp/80", true},
		{"port/n1/tcp/80", "port/n2/tcp/80", false},
		{"port/n1/tcp/80", "port/ingress/tcp/80", true},
		{"port/n1/tcp/80", "port/n1/udp/80", false},
		{"port/n1/tcp/80", "port/n1/tcp/81", false},
		{"port/n1/tcp/80", "port/n1/tcp/80/192.0.2.7", true},
		{"port/n1/tcp/80/192.0.2.8", "port/n1/tcp/80/192.0.2.7", false},
		{"port/ingress/tcp/80/192.0.2.8", "port/n1/tcp/80/192.0.2.8", true},
		{"port/ingress/tcp/80/192.0.2.8", "port/n1/tcp/80/192.0.2.9", false},
	} {
		if got := key(c.a).Conflicts(key(c.b)); got != c.want {
			t.Errorf("%s and %s: got %v, want %v", c.a, c.b, got, c.want)
		}
		if got := key(c.b).Conflicts(key(c.a)); got != c.want {
			t.Errorf("%s and %s: got %v, want %v", c.b, c.a, got, c.want)
		}
	}
}
