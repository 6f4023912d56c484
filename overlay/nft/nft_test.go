//go:build linux

package nft

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"swarm/overlay/netns"
)

// newConn returns a connection to the nftables of a namespace of its own.
func newConn(t *testing.T) *Conn {
	t.Helper()
	pin := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(pin); err != nil {
		t.Fatal(err)
	}
	conn := &Conn{Netns: pin}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), netns.Delete(pin)); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// do queues changes and commits them.
func do(t *testing.T, conn *Conn, fn func(c *nftables.Conn) error) {
	t.Helper()
	err := conn.Do(func(c *nftables.Conn) error {
		if err := fn(c); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// forward adds a base chain on the forward hook.
func forward(c *nftables.Conn, family nftables.TableFamily, table, name string, policy nftables.ChainPolicy, rules ...[]expr.Any) {
	t := c.AddTable(&nftables.Table{Family: family, Name: table})
	ch := c.AddChain(&nftables.Chain{
		Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
	}
}

// rules counts the rules of each chain that has some: "ip filter FORWARD 2".
func rules(t *testing.T, conn *Conn) (out []string) {
	t.Helper()
	do(t, conn, func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			if len(rules) > 0 {
				out = append(out, ChainName(ch)+" "+strings.Repeat("|", len(rules)))
			}
		}
		return err
	})
	slices.Sort(out)
	return out
}

// Our rules come into each chain that drops: where dockerd has a chain for others, into that one.
// Chains that accept, and those of bridges, stay as they are.
func TestAccepts(t *testing.T) {
	conn := newConn(t)
	do(t, conn, func(c *nftables.Conn) error {
		forward(c, nftables.TableFamilyIPv4, "filter", "FORWARD", nftables.ChainPolicyDrop)
		c.AddChain(&nftables.Chain{Name: dockerUser, Table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}})
		forward(c, nftables.TableFamilyIPv6, "filter", "FORWARD", nftables.ChainPolicyDrop)
		forward(c, nftables.TableFamilyINet, "firewalld", "filter_FORWARD", nftables.ChainPolicyAccept, []expr.Any{&expr.Counter{}, &expr.Reject{}})
		forward(c, nftables.TableFamilyINet, "open", "forward", nftables.ChainPolicyAccept, Join(Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, "eth9"), Drop()))
		forward(c, nftables.TableFamilyBridge, "frames", "forward", nftables.ChainPolicyDrop)
		return nil
	})
	before := rules(t, conn)
	a := Accepts{Interface: "swarm0", Tag: "swarm test"}
	want := []string{"inet firewalld filter_FORWARD", "ip filter DOCKER-USER", "ip6 filter FORWARD"}
	if got, err := a.Missing(conn); err != nil || !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("missing: got %v, %v, want %v", got, err, want)
	}
	for range 2 { // The second time there is nothing to add.
		a.Ensure(conn, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if got, want := rules(t, conn), []string{"inet firewalld filter_FORWARD |||", "inet open forward |", "ip filter DOCKER-USER ||", "ip6 filter FORWARD ||"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, err := a.Missing(conn); err != nil || len(got) > 0 {
		t.Errorf("still missing: %v, %v", got, err)
	}
	other := Accepts{Interface: "swarm1", Tag: "another"}
	if err := other.Mend(conn); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(conn); err != nil {
		t.Fatal(err)
	}
	if got, want := rules(t, conn), []string{"inet firewalld filter_FORWARD |||", "inet open forward |", "ip filter DOCKER-USER ||", "ip6 filter FORWARD ||"}; !slices.Equal(got, want) {
		t.Errorf("the rules of another interface: got %q, want %q", got, want)
	}
	if err := other.Remove(conn); err != nil {
		t.Fatal(err)
	}
	if got := rules(t, conn); !slices.Equal(got, before) {
		t.Errorf("both removed: got %q, want %q", got, before)
	}
}

// Another program has removed one of our two rules.
func TestAccepts_MendsHalf(t *testing.T) {
	conn := newConn(t)
	do(t, conn, func(c *nftables.Conn) error {
		forward(c, nftables.TableFamilyIPv4, "filter", "FORWARD", nftables.ChainPolicyDrop)
		return nil
	})
	a := Accepts{Interface: "swarm0", Tag: "swarm test"}
	if err := a.Mend(conn); err != nil {
		t.Fatal(err)
	}
	do(t, conn, func(c *nftables.Conn) error {
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
		all, err := c.GetRules(table, &nftables.Chain{Table: table, Name: "FORWARD"})
		if err != nil {
			return err
		}
		return c.DelRule(all[0])
	})
	if got, err := a.Missing(conn); err != nil || !slices.Equal(got, []string{"ip filter FORWARD"}) {
		t.Errorf("missing: got %v, %v", got, err)
	}
	if err := a.Mend(conn); err != nil {
		t.Fatal(err)
	}
	if got, want := rules(t, conn), []string{"ip filter FORWARD ||"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEndsInDrop(t *testing.T) {
	accept, drop := nftables.ChainPolicyAccept, nftables.ChainPolicyDrop
	conditional := Join(Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, "eth0"), Drop())
	for name, c := range map[string]struct {
		policy nftables.ChainPolicy
		rules  [][]expr.Any
		want   bool
	}{
		"policy drop":                 {drop, nil, true},
		"policy accept, no rule":      {accept, nil, false},
		"last rule drops":             {accept, [][]expr.Any{conditional, {&expr.Counter{}, Drop()}}, true},
		"last rule rejects":           {accept, [][]expr.Any{{&expr.Reject{}}}, true},
		"last rule has a condition":   {accept, [][]expr.Any{conditional}, false},
		"a rule before the last":      {accept, [][]expr.Any{{Drop()}, {&expr.Counter{}}}, false},
		"last rule accepts":           {accept, [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictAccept}}}, false},
		"policy drop, rules that end": {drop, [][]expr.Any{{Return()}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn := newConn(t)
			do(t, conn, func(cn *nftables.Conn) error {
				forward(cn, nftables.TableFamilyINet, "x", "forward", c.policy, c.rules...)
				return nil
			})
			do(t, conn, func(cn *nftables.Conn) error {
				chains, err := cn.ListChains()
				if err != nil {
					return err
				}
				got, err := EndsInDrop(cn, chains[0])
				if got != c.want {
					t.Errorf("got %v, want %v", got, c.want)
				}
				return err
			})
		})
	}
}

// More elements than one message holds are added and deleted. A batch that names an element which
// does not exist changes nothing.
func TestElements(t *testing.T) {
	conn, table := newConn(t), &nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}
	set := &nftables.Set{Table: table, Name: "s", KeyType: nftables.TypeIPAddr}
	var elements []nftables.SetElement
	for i := range 3*elementsPerMessage + 1 {
		elements = append(elements, nftables.SetElement{Key: []byte{10, 0, byte(i >> 8), byte(i)}})
	}
	count := func() (n int) {
		do(t, conn, func(c *nftables.Conn) error {
			got, err := c.GetSetElements(set)
			n = len(got)
			return err
		})
		return n
	}
	do(t, conn, func(c *nftables.Conn) error {
		c.AddTable(table)
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
		return AddElements(c, set, elements)
	})
	if got := count(); got != len(elements) {
		t.Errorf("got %d elements, want %d", got, len(elements))
	}
	err := conn.Do(func(c *nftables.Conn) error {
		if err := DeleteElements(c, set, append(elements[:2:2], nftables.SetElement{Key: []byte{192, 0, 2, 1}})); err != nil {
			return err
		}
		return c.Flush()
	})
	if got := count(); err == nil || got != len(elements) {
		t.Errorf("an element that does not exist: got %v and %d elements, want an error and %d", err, got, len(elements))
	}
	do(t, conn, func(c *nftables.Conn) error { return DeleteElements(c, set, elements) })
	if got := count(); got != 0 {
		t.Errorf("all deleted: %d elements are left", got)
	}
}

// Renew leaves an empty table, whether there was one or not, and RemoveTable leaves none.
func TestRenewAndRemoveTable(t *testing.T) {
	conn, table := newConn(t), &nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}
	exists := func() (ok bool) {
		do(t, conn, func(c *nftables.Conn) (err error) { ok, err = Exists(c, table); return err })
		return ok
	}
	for range 2 {
		do(t, conn, func(c *nftables.Conn) error {
			if err := Renew(c, table); err != nil {
				return err
			}
			WriteChains(c, table, []*Chain{{Name: "a", Rules: [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictJump, Chain: "b"}}}}, {Name: "b"}})
			return nil
		})
		if got := rules(t, conn); !exists() || !slices.Equal(got, []string{"inet x a |"}) {
			t.Errorf("got %q, the table exists: %v", got, exists())
		}
	}
	for range 2 {
		if err := RemoveTable(conn, table); err != nil || exists() {
			t.Errorf("removed: %v, the table exists: %v", err, exists())
		}
	}
}

// A call that failed closes the connection, and the next one opens another.
func TestConn_DoAfterAFailure(t *testing.T) {
	conn := newConn(t)
	broken := errors.New("broken")
	if err := conn.Do(func(*nftables.Conn) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	do(t, conn, func(c *nftables.Conn) error { _, err := c.ListTables(); return err })
	lost := &Conn{Netns: filepath.Join(t.TempDir(), "nothing")}
	if err := lost.Do(func(*nftables.Conn) error { return nil }); err == nil {
		t.Error("a namespace that does not exist: no error")
	}
}

func TestZoneRule(t *testing.T) {
	conn, table := newConn(t), &nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}
	do(t, conn, func(c *nftables.Conn) error {
		c.AddTable(table)
		WriteChains(c, table, []*Chain{{Name: "zones", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Prio: nftables.ChainPriorityRaw}})
		return nil
	})
	ns, err := netns.Open(conn.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	chain := &nftables.Chain{Table: table, Name: "zones"}
	match := Join(Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, "eth0"), &expr.Immediate{Register: Reg, Data: Slot(7)})
	if err := AddZoneRule(chain, match, ns.FD()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"zones": 1, "nothing": 0} {
		if got, err := CountRules(&nftables.Chain{Table: table, Name: name}, ns.FD()); err != nil || got != want {
			t.Errorf("%s: got %d rules, %v, want %d", name, got, err, want)
		}
	}
	if err := AddZoneRule(&nftables.Chain{Table: table, Name: "nothing"}, match, ns.FD()); err == nil {
		t.Error("a chain that does not exist: no error")
	}
}

// Watch checks at once, and again after a change.
func TestWatch(t *testing.T) {
	conn := newConn(t)
	ns, err := netns.Open(conn.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	ctx, cancel := context.WithCancel(t.Context())
	checks, done := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		done <- ns.Do(func() error {
			return Watch(ctx, time.Millisecond, func(context.Context) error {
				checks <- struct{}{}
				return errors.New("which is logged")
			}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		})
	}()
	<-checks
	do(t, conn, func(c *nftables.Conn) error {
		c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "x"})
		return nil
	})
	<-checks
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFamily(t *testing.T) {
	v4, v6 := Families()[0], Families()[1]
	a4, a6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")
	if !v4.Of(a4) || v4.Of(a6) || v6.Of(a4) || !v6.Of(a6) || v4.Words() != 1 || v6.Words() != 4 {
		t.Errorf("%+v, %+v", v4, v6)
	}
	match := v4.SrcIn(expr.CmpOpEq, netip.MustParsePrefix("10.1.18.3/20"))
	mask, cmp := match[1].(*expr.Bitwise).Mask, match[2].(*expr.Cmp).Data
	if !slices.Equal(mask, []byte{255, 255, 240, 0}) || !slices.Equal(cmp, []byte{10, 1, 16, 0}) {
		t.Errorf("10.1.18.3/20: mask %v, compared with %v", mask, cmp)
	}
	if got := Port(8080); !slices.Equal(got, []byte{0x1f, 0x90, 0, 0}) {
		t.Errorf("port 8080: %v", got)
	}
	if got := Pad([]byte{1, 2, 3, 4}); len(got) != 4 {
		t.Errorf("four bytes padded: %v", got)
	}
}
