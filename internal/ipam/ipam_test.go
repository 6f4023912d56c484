package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

func subnet(t *testing.T, prefix string, more ...string) Subnet {
	t.Helper()
	c := &swarmv1.IPAMConfig{Subnet: prefix}
	if len(more) > 0 {
		c.Gateway = more[0]
	}
	if len(more) > 1 {
		c.Range = more[1]
	}
	s, err := ParseSubnet(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSubnet_AllocatesEveryAddressOnce(t *testing.T) {
	for _, test := range []struct {
		subnet, gateway, part string
		first, last           string
		total                 uint64
	}{
		{"10.0.1.0/24", "", "", "10.0.1.2", "10.0.1.254", 253},
		{"10.0.1.0/29", "", "", "10.0.1.2", "10.0.1.6", 5},
		{"10.0.1.0/30", "", "", "10.0.1.2", "10.0.1.2", 1},
		{"10.0.1.0/29", "10.0.1.6", "", "10.0.1.1", "10.0.1.5", 5},
		{"10.0.1.0/29", "10.0.1.3", "", "10.0.1.1", "10.0.1.6", 5},
		{"10.0.0.0/16", "", "10.0.3.0/24", "10.0.3.0", "10.0.3.255", 256},
		{"10.0.0.0/16", "10.0.3.255", "10.0.3.0/24", "10.0.3.0", "10.0.3.254", 255},
		{"10.0.0.0/22", "", "", "10.0.0.2", "10.0.3.254", 1021},
		{"255.255.255.0/24", "", "", "255.255.255.2", "255.255.255.254", 253},
		{"fd00::/120", "", "", "fd00::2", "fd00::ff", 254},
	} {
		s := subnet(t, test.subnet, test.gateway, test.part)
		name := fmt.Sprintf("%s gateway %s range %s", test.subnet, test.gateway, test.part)
		if got := s.RangeSize(); got != test.total {
			t.Errorf("%s: total %d, want %d", name, got, test.total)
		}
		var set Set
		var all []netip.Addr
		for at, ok := s.Next(netip.Addr{}, &set); ok; at, ok = s.Next(at, &set) {
			if set.Has(at) || !s.Assignable(at) || !s.InRange(at) {
				t.Fatalf("%s gives %s, which it must not", name, at)
			}
			set.Add(at)
			all = append(all, at)
		}
		if uint64(len(all)) != test.total || all[0].String() != test.first || all[len(all)-1].String() != test.last {
			t.Errorf("%s gives %d addresses, %s to %s; want %d, %s to %s", name, len(all), all[0], all[len(all)-1], test.total, test.first, test.last)
		}
		if got := set.CountIn(s); got != test.total {
			t.Errorf("%s: used %d, want %d", name, got, test.total)
		}
	}
}

func TestSubnet_Large(t *testing.T) {
	s := subnet(t, "fd12:3456:789a::/64")
	if got, want := s.RangeSize(), uint64(1<<64-2); got != want {
		t.Errorf("total %d, want %d", got, want)
	}
	var set Set
	a, ok := s.Next(netip.MustParseAddr("fd12:3456:789a::ffff:ffff:ffff:ffff"), &set)
	if want := "fd12:3456:789a::2"; !ok || a.String() != want {
		t.Errorf("after the last address comes %s, want %s", a, want)
	}
	s = subnet(t, "10.0.0.0/8")
	for i := range 1 << 16 {
		set.Add(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	if a, ok := s.Next(netip.Addr{}, &set); !ok || a.String() != "10.1.0.0" {
		t.Errorf("after 65536 used addresses comes %s", a)
	}
}

func TestSubnet_ReleasedAddressIsAllocatedLast(t *testing.T) {
	s := subnet(t, "10.0.1.0/28")
	var set Set
	var at netip.Addr
	allocate := func() netip.Addr {
		a, ok := s.Next(at, &set)
		if !ok {
			t.Fatal("no free address")
		}
		set.Add(a)
		at = a
		return a
	}
	first := allocate()
	set.Remove(first)
	for range s.RangeSize() - 1 {
		if a := allocate(); a == first {
			t.Fatalf("%s is allocated again while others are free", first)
		}
	}
	if a := allocate(); a != first {
		t.Errorf("the last free address is %s, want %s", a, first)
	}
	if a, ok := s.Next(at, &set); ok {
		t.Errorf("a full subnet gives %s", a)
	}
}

func TestParseSubnet_Errors(t *testing.T) {
	for _, c := range []*swarmv1.IPAMConfig{
		{Subnet: ""},
		{Subnet: "10.0.1.1/24"},
		{Subnet: "10.0.1.0/31"},
		{Subnet: "fd00::/48"},
		{Subnet: "::ffff:10.0.0.0/120"},
		{Subnet: "10.0.1.0/24", Gateway: "10.0.2.1"},
		{Subnet: "10.0.1.0/24", Range: "10.0.0.0/16"},
		{Subnet: "10.0.1.0/24", Range: "x"},
	} {
		if s, err := ParseSubnet(c); err == nil {
			t.Errorf("%v becomes %v", c, s)
		}
	}
	if _, err := ParseSubnets(&swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.0/24"}, {Subnet: "10.0.2.0/24"}}}); err == nil {
		t.Error("two subnets of one family make a plan")
	}
}

// Set behaves like a map.
func TestSet_BehavesLikeAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bases := []netip.Addr{netip.MustParseAddr("10.0.3.200"), netip.MustParseAddr("fd00::fff0"), netip.MustParseAddr("255.255.252.0")}
	var set Set
	want := map[netip.Addr]bool{}
	random := func() netip.Addr {
		a := bases[r.IntN(len(bases))]
		for range r.IntN(80) {
			a = a.Next()
		}
		return a
	}
	for range 20000 {
		a := random()
		if r.IntN(3) == 0 {
			set.Remove(a)
			delete(want, a)
		} else {
			set.Add(a)
			want[a] = true
		}
		from := random()
		free := from
		for want[free] {
			free = free.Next()
		}
		if got := set.NextFree(from); got != free {
			t.Fatalf("next free from %s is %s, want %s", from, got, free)
		}
	}
	if set.Len() != len(want) {
		t.Errorf("the set holds %d, want %d", set.Len(), len(want))
	}
}

func TestChooseSubnet(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, test := range []struct {
		pools, used []string
		size        int
		want        string
	}{
		{[]string{"10.0.0.0/8"}, nil, 24, "10.0.0.0/24"},
		{[]string{"10.0.0.0/8"}, []string{"10.0.0.0/24", "10.0.1.0/24"}, 24, "10.0.2.0/24"},
		{[]string{"10.0.0.0/8"}, []string{"10.0.1.0/24", "10.0.0.128/25"}, 24, "10.0.2.0/24"},
		{[]string{"10.0.0.0/8"}, []string{"10.0.0.0/15", "10.0.7.0/24", "10.2.0.0/30"}, 24, "10.2.1.0/24"},
		{[]string{"10.0.0.0/24", "172.16.0.0/16"}, []string{"10.0.0.9/32"}, 24, "172.16.0.0/24"},
		{[]string{"10.0.0.0/24"}, []string{"10.0.0.0/8"}, 24, ""},
		{[]string{"255.255.255.0/24"}, []string{"255.255.255.0/24"}, 24, ""},
		{[]string{"10.0.0.0/28"}, []string{"10.0.0.0/30", "10.0.0.8/30", "fd00::/64"}, 30, "10.0.0.4/30"},
	} {
		got, ok := ChooseSubnet(prefixes(test.pools...), test.size, prefixes(test.used...))
		text := ""
		if ok {
			text = got.String()
		}
		if diff := cmp.Diff(test.want, text); diff != "" {
			t.Errorf("%v without %v:\n%s", test.pools, test.used, diff)
		}
	}
}

func TestULAPrefix(t *testing.T) {
	if got, want := ULAPrefix([5]byte{1, 2, 3, 4, 5}).String(), "fd01:203:405::/64"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestKeys(t *testing.T) {
	a := netip.MustParseAddr("fd00::5")
	network, got, ok := ParseKey(Key("n1", a))
	if network != "n1" || got != a || !ok {
		t.Errorf("read %s %s %v", network, got, ok)
	}
	if _, _, ok := ParseKey("port/ingress/tcp/80"); ok {
		t.Error("a port is read as an address")
	}
	network, family, ok := ParseCursorKey(CursorKey("n1", subnet(t, "fd00::/64")))
	if network != "n1" || family != "6" || !ok {
		t.Errorf("read %s %s %v", network, family, ok)
	}
}
