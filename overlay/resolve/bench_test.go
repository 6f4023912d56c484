//go:build linux

package resolve

import (
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/miekg/dns"

	"swarm/overlay/netns"
	swarmv1 "swarm/proto/swarm/v1"
)

// benchService is the i-th of many services with 10 tasks.
func benchService(i, generation int) *swarmv1.ResolverService {
	s := &swarmv1.ResolverService{
		NetworkId: "n1", ServiceId: fmt.Sprint("service-", i), Name: fmt.Sprint("service-", i), VirtualIps: []string{fmt.Sprintf("10.1.%d.%d", i>>8, i&255)},
	}
	for j := range 10 {
		s.Tasks = append(s.Tasks, &swarmv1.ResolverTask{
			Name: fmt.Sprintf("service-%d.%d.task%d-%d-%d", i, j, i, j, generation), Slot: uint64(j + 1), Ready: true,
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 10+j, i>>8, i&255)},
		})
	}
	return s
}

const manyServices = 1000

// BenchmarkLoad sends 1,000 services with 10 tasks each to a server.
func BenchmarkLoad(b *testing.B) {
	r := newRig(b)
	for i := range manyServices {
		r.feed.SetService(benchService(i, 0))
	}
	r.waitApplied()
	before := heap()
	for b.Loop() {
		r.stopFeed()
		feed := r.feed
		r.stopF = run(b, feed.Run)
		// This change is sent after the full update.
		feed.SetNetwork(&swarmv1.ResolverNetwork{Id: "n1"})
		r.waitApplied()
	}
	b.ReportMetric(float64(before)/1e6, "MB-heap")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkChange changes one of 1,000 services and waits until the server has applied the change.
func BenchmarkChange(b *testing.B) {
	r := newRig(b)
	for i := range manyServices {
		r.feed.SetService(benchService(i, 0))
	}
	r.waitApplied()
	for i := 0; b.Loop(); i++ {
		r.feed.SetService(benchService(i%manyServices, i+1))
		r.waitApplied()
	}
}

// BenchmarkServe starts to serve one more container.
func BenchmarkServe(b *testing.B) {
	r := newRig(b)
	r.setServices()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		pin := filepath.Join(r.dir, "task.ns")
		if err := netns.Create(pin); err != nil {
			b.Fatal(err)
		}
		id := fmt.Sprint("task", i)
		b.StartTimer()
		if err := r.feed.Serve(b.Context(), &swarmv1.ResolverContainer{Id: id, Netns: pin, NetworkIds: []string{"n1"}}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		r.feed.RemoveContainer(id)
		r.waitApplied()
		if err := netns.Delete(pin); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkQuery sends queries one after the other from inside a container, through the redirect.
func BenchmarkQuery(b *testing.B) {
	r := newRig(b)
	for i := range manyServices {
		r.feed.SetService(benchService(i, 0))
	}
	box := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	var c net.Conn
	if err := box.ns.Do(func() (err error) { c, err = net.Dial("udp", "127.0.0.11:53"); return err }); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	q, err := new(dns.Msg).SetQuestion("service-77.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 512)
	for b.Loop() {
		if _, err := c.Write(q); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || n < 40 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}

// BenchmarkLocal measures only our code: from the query's bytes to the answer's bytes.
func BenchmarkLocal(b *testing.B) {
	n := testZones(b)
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n2", "n1"}}
	q, err := new(dns.Msg).SetQuestion("tasks.web.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		req := new(dns.Msg)
		if err := req.Unpack(q); err != nil {
			b.Fatal(err)
		}
		m, _ := n.local(c, req)
		if _, err := pack(req, m, false); err != nil {
			b.Fatal(err)
		}
	}
}
