//go:build linux

package bridge_test

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
)

// One task opens as many connections as it can. Most of the host's conntrack table stays free, and
// another task can connect.
func TestConnectionRate_OfATaskIsLimited(t *testing.T) {
	w := newWorld(t)
	greedy, other := w.attach("greedy"), w.attach("other")
	w.answer(w.listen(w.client, 90), "world")
	const flows = 100_000
	if err := w.in(greedy).Do(func() error {
		for from := range flows / 50_000 {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 40_000 + from})
			if err != nil {
				return err
			}
			for port := range uint16(50_000) {
				_, _ = c.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(netip.MustParseAddr(clientAddr), 10_000+port))
			}
			c.Close()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	text, err := w.host.Sysctl("netfilter.nf_conntrack_count")
	if err != nil {
		t.Skip(err)
	}
	count, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a task that opens %d connections has %d", flows, count)
	if most := 60_000; count > most { // what it may at once, and a second's for each of those that a busy machine takes
		t.Errorf("a task that opens %d connections has %d, want at most %d", flows, count, most)
	}
	wantAnswer(t, "another task", w.in(other), clientAddr+":90", "world "+hostAddr)
}
