//go:build linux

package mesh_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"swarm/overlay/mesh"
	"swarm/overlay/netns"
)

// BenchmarkRequests sends requests to a container at its published port, and directly to the
// address of its host.
func BenchmarkRequests(b *testing.B) {
	w := newWorld(b)
	here, there := w.hosts[0].run("here"), w.hosts[1].run("there")
	w.publish(port(8081, here), port(8082, there))
	w.serve(w.hosts[0].ns, "direct", 9999)
	for _, c := range []struct {
		name string
		port int
	}{{"direct", 9999}, {"local", 8081}, {"remote", 8082}} {
		addr := at(v4(11), c.port)
		b.Run("kept/"+c.name, func(b *testing.B) {
			conn, err := dial(w.client, "tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			for b.Loop() {
				if _, err := conn.ask(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
		b.Run("new/"+c.name, func(b *testing.B) { newConnections(b, w.client, addr) })
	}
}

func newConnections(b *testing.B, from *netns.Namespace, addr string) {
	err := from.Do(func() error {
		buf := make([]byte, 100)
		for b.Loop() {
			c, err := net.DialTimeout("tcp", addr, 3*time.Second)
			if err != nil {
				return err
			}
			if _, err = c.Write([]byte("?\n")); err == nil {
				_, err = c.Read(buf)
			}
			// Without a reset the client would run out of ports.
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// BenchmarkSync removes a backend from one of many ports and adds it again.
func BenchmarkSync(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("ports=%d", n), func(b *testing.B) {
			w := newWorld(b)
			h := w.hosts[0]
			all := make([]mesh.Published, n)
			for i := range all {
				all[i] = mesh.Published{Port: mesh.Port{Published: uint16(10000 + i), Protocol: "tcp"}, Target: 80}
				for j := range 10 {
					all[i].Backends = append(all[i].Backends, mesh.Backend{Node: "n1", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, byte(i), byte(j + 2)})}})
				}
			}
			start := time.Now()
			h.sync(h.state(all...))
			load := time.Since(start)
			for i := 0; b.Loop(); i++ {
				all[n/2].Backends = all[n/2].Backends[:9+i%2]
				h.sync(h.state(all...))
			}
			b.ReportMetric(float64(load.Microseconds())/1000, "ms/load")
		})
	}
}
