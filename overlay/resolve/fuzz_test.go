//go:build linux

package resolve

import (
	"bytes"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzStream decodes and answers what a container may send over TCP.
func FuzzStream(f *testing.F) {
	b, err := new(dns.Msg).SetQuestion("web.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0, byte(len(b))}, b...))
	f.Add([]byte{0xff, 0xff, 1})
	many := manyRecords(f, dns.TypeA)
	f.Add(append([]byte{byte(len(many) >> 8), byte(len(many))}, many...))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := readMsg(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(req.Question) > 1 || len(req.Answer)+len(req.Ns) > 0 || len(req.Extra) > 1 {
			t.Errorf("decoded %v", req)
		}
		m := rejection(req)
		if m == nil {
			m = reply(req, dns.RcodeServerFailure)
		}
		if out, err := pack(req, m, true); err == nil && len(out) > dns.MaxMsgSize {
			t.Errorf("answer of %d bytes", len(out))
		}
	})
}

// FuzzUpstream caches and packs what a name server may answer.
func FuzzUpstream(f *testing.F) {
	req := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	answer := new(dns.Msg).SetReply(req)
	rr, err := dns.NewRR("www.example. 60 IN A 192.0.2.1")
	if err != nil {
		f.Fatal(err)
	}
	answer.Answer = []dns.RR{rr}
	b, err := answer.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint32(1))
	now := time.Unix(1_000_000, 0)
	f.Fuzz(func(t *testing.T, b []byte, later uint32) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		c := newCache(64 << 10)
		q := query{name: "www.example.", qtype: dns.TypeA}
		c.put(q, m, now)
		if life := lifetime(m); life < 0 || life > maxPositive {
			t.Errorf("remembered for %v", life)
		}
		if got := c.get(q, now.Add(time.Duration(later)*time.Second)); got != nil {
			m = got
		}
		if out, err := pack(req, adapt(m.Copy(), req), false); err == nil && len(out) > maxUDP {
			t.Errorf("answer of %d bytes", len(out))
		}
	})
}
