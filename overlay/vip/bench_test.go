//go:build linux

package vip_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"swarm/overlay/vip"
)

// cluster returns n services with ten backends each, with IPv6 too if dual is set.
func cluster(n, backends int, dual bool) []vip.Service {
	all := make([]vip.Service, n)
	for i := range all {
		for b := range backends {
			all[i].Backends = append(all[i].Backends, v4(100+i*backends+b))
		}
		all[i].VIPs = []netip.Addr{v4(40000 + i)}
		if dual {
			all[i].VIPs = append(all[i].VIPs, v6(40000+i))
			for b := range backends {
				all[i].Backends = append(all[i].Backends, v6(100+i*backends+b))
			}
		}
	}
	return all
}

// BenchmarkLoad programs a container for the first time.
func BenchmarkLoad(b *testing.B) {
	for _, dual := range []bool{false, true} {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("services=%d/dual=%v", n, dual), func(b *testing.B) {
				w := newWorld(b)
				all := cluster(n, 10, dual)
				for b.Loop() {
					w.balancer = vip.New()
					w.program(all...)
					b.StopTimer()
					w.program()
					if err := w.balancer.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkChange removes a backend from one of many services and adds it again.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		for _, backends := range []int{10, 200} {
			if n*backends > 60000 {
				continue
			}
			b.Run(fmt.Sprintf("services=%d/backends=%d", n, backends), func(b *testing.B) {
				w := newWorld(b)
				all := cluster(n, backends, false)
				w.program(all...)
				w.program(all...)
				less := slices.Clone(all)
				less[n/2].Backends = less[n/2].Backends[1:]
				for i := 0; b.Loop(); i++ {
					if i%2 == 0 {
						w.program(less...)
					} else {
						w.program(all...)
					}
				}
			})
		}
	}
}

// BenchmarkConnect opens a connection through a virtual address.
func BenchmarkConnect(b *testing.B) {
	for _, n := range []int{0, 10, 1000, 5000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			w := newWorld(b)
			var l net.Listener
			if err := w.server.Do(func() (err error) { l, err = net.Listen("tcp", ":80"); return err }); err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					c.Close()
				}
			}()
			to := v4(2)
			if n > 0 {
				all := append(cluster(n, 10, false), service(1, 2, 3))
				w.program(all...)
				to = v4(20001)
			}
			var took []time.Duration
			err := w.client.Do(func() error {
				for b.Loop() {
					start := time.Now()
					c, err := net.Dial("tcp", netip.AddrPortFrom(to, 80).String())
					if err != nil {
						return err
					}
					took = append(took, time.Since(start))
					c.Close()
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "us/p50")
		})
	}
}
