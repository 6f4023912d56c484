//go:build linux

package vip_test

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestProgram_DatagramsFollowAtOnce(t *testing.T) {
	w := newWorld(t)
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		w.serveUDP(w.server, 53, addr(2), addr(3))
		for _, restart := range []bool{false, true} {
			w.program(service(1, 2))
			c, err := w.dial("udp", addr(20001), 53)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range []int{2, 3, 2} {
				if restart {
					w.restart()
				}
				w.program(service(1, b), service(2, 4))
				if restart {
					w.program(service(1, b))
				}
				if got, err := c.ask(); !restart && (err != nil || got != fmt.Sprint(addr(b), " ", addr(1))) {
					t.Errorf("a flow after its backend was replaced: %q, %v, want %s", got, err, addr(b))
				}
			}
		}
	}
}

// Flows from before a restart follow a change too, also those that the first walk of the conntrack
// table did not delete.
func TestProgram_DatagramsOfAnEarlierProcessFollow(t *testing.T) {
	w := newWorld(t)
	w.serveUDP(w.server, 53, v4(2), v4(3), v6(2), v6(3))
	w.program(service(1, 2), service(2, 2))
	var flows []*talk
	for _, vip := range []netip.Addr{v4(20001), v6(20001), v4(20002), v6(20002)} {
		c, err := w.dial("udp", vip, 53)
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, c)
	}
	answers := func(when string, backends ...int) {
		t.Helper()
		for i, c := range flows {
			addr := []func(int) netip.Addr{v4, v6}[i%2]
			if got, err := c.ask(); err != nil || got != fmt.Sprint(addr(backends[i/2]), " ", addr(1)) {
				t.Errorf("%s, %s: answer %q, %v, want from %s", c.RemoteAddr(), when, got, err, addr(backends[i/2]))
			}
		}
	}
	answers("before the restart", 2, 2)
	w.restart()
	w.program(service(1, 2), service(2, 2))
	w.program(service(1, 3), service(2, 2))
	answers("one service has another backend", 3, 2)
	w.program(service(1, 3), service(2, 3))
	answers("the other too", 3, 3)
}
