//go:build linux

package bridge_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"swarm/overlay/netns"
)

// Hosts accept VXLAN packets at this port from the address of another host, which is the address of
// the tasks there too.
func TestForbid_TaskCannotSendFrames(t *testing.T) {
	w := newWorld(t)
	w.b.BlockUDPPort(4789)
	a := w.attach("task-a")
	for _, at := range []struct {
		ns   *netns.Namespace
		addr string
	}{{w.client, clientAddr}, {w.host, hostAddr}} {
		got := make(map[int]net.PacketConn)
		for _, port := range []int{4789, 4790} {
			if err := at.ns.Do(func() (err error) { got[port], err = net.ListenPacket("udp4", fmt.Sprint(":", port)); return err }); err != nil {
				t.Fatal(err)
			}
			defer got[port].Close()
		}
		for port, want := range map[int]bool{4789: false, 4790: true} {
			err := w.in(a).Do(func() error {
				c, err := net.Dial("udp4", fmt.Sprint(at.addr, ":", port))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte("frame"))
				return err
			})
			if err != nil && want {
				t.Fatal(err)
			}
			patience := 300 * time.Millisecond
			if want {
				patience = 10 * time.Second
			}
			_ = got[port].SetReadDeadline(time.Now().Add(patience))
			if _, _, err := got[port].ReadFrom(make([]byte, 9)); (err == nil) != want {
				t.Errorf("datagram to %s:%d: %v, want it to arrive: %v", at.addr, port, err, want)
			}
		}
	}
}
