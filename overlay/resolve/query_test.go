//go:build linux

package resolve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
)

// manyRecords is a query with as many records as fit. Each record repeats a long name with two
// bytes.
func manyRecords(t testing.TB, kind uint16) []byte {
	t.Helper()
	b, err := new(dns.Msg).SetQuestion(strings.Repeat(strings.Repeat("\\001", 60)+".", 4), kind).Pack()
	if err != nil {
		t.Fatal(err)
	}
	record := []byte{0xc0, headerSize, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, 0}
	n := (dns.MaxMsgSize - len(b)) / len(record)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	return append(b, bytes.Repeat(record, n)...)
}

// allocated returns the number of bytes that do allocates.
func allocated(t *testing.T, do func() error) uint64 {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := do()
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	return after.TotalAlloc - before.TotalAlloc
}

func TestReadQuery(t *testing.T) {
	question := func(edit func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("web.", dns.TypeA)
		edit(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rr := &dns.A{Hdr: header("web.", dns.TypeA), A: net.IPv4zero}
	edns := func(m *dns.Msg) {
		m.SetEdns0(1400, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 500)}}
	}
	for what, c := range map[string]struct {
		data []byte
		code int // of the rejection, or 0 if the query is valid
	}{
		"a question":           {question(func(*dns.Msg) {}), 0},
		"with EDNS":            {question(edns), 0},
		"with another record":  {question(func(m *dns.Msg) { m.Extra = []dns.RR{rr} }), 0},
		"with two":             {question(func(m *dns.Msg) { edns(m); m.Extra = append(m.Extra, rr) }), dns.RcodeFormatError},
		"with an answer":       {question(func(m *dns.Msg) { m.Answer = []dns.RR{rr} }), dns.RcodeFormatError},
		"with an authority":    {question(func(m *dns.Msg) { m.Ns = []dns.RR{rr} }), dns.RcodeFormatError},
		"two questions":        {question(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"no question":          {question(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		"an update":            {question(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate; m.Ns = []dns.RR{rr} }), dns.RcodeNotImplemented},
		"thousands of records": {manyRecords(t, dns.TypeA), dns.RcodeFormatError},
		"a header that counts more records than there are": {append(question(func(*dns.Msg) {})[:4], 255, 255, 255, 255, 255, 255, 255, 255), dns.RcodeFormatError},
	} {
		var req *dns.Msg
		held := allocated(t, func() (err error) { req, err = readQuery(c.data); return err })
		if held > 16<<10 {
			t.Errorf("%s: decoding %d bytes takes %d", what, len(c.data), held)
		}
		m := rejection(req)
		switch {
		case c.code == 0 && (m != nil || len(req.Question) != 1 || req.Question[0].Name != "web."):
			t.Errorf("%s: decoded as %v, refused with %v", what, req, m)
		case c.code != 0 && (m == nil || m.Rcode != c.code || m.Id != req.Id || len(req.Answer)+len(req.Ns)+len(req.Extra) > 0):
			t.Errorf("%s: got %v, want %s", what, m, dns.RcodeToString[c.code])
		}
		if opt := req.IsEdns0(); what == "with EDNS" && (opt == nil || opt.UDPSize() != 1400 || !opt.Do() || len(opt.Option) > 0) {
			t.Errorf("%s: got %v, want its size and flag alone", what, opt)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 11), question(func(m *dns.Msg) { m.Response = true }), question(func(*dns.Msg) {})[:14]} {
		if req, err := readQuery(b); err == nil {
			t.Errorf("%x is a question: %v", b, req)
		}
	}
}

// A query over TCP may not be larger than one over UDP. readMsg does not wait for the rest of a
// longer one.
func TestReadMsg_IsBounded(t *testing.T) {
	for size, waits := range map[int]bool{maxQuery: true, maxQuery + 1: false} {
		b := binary.BigEndian.AppendUint16(nil, uint16(size))
		_, err := readMsg(bytes.NewReader(append(b, 1)))
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) != waits {
			t.Errorf("%d bytes: got %v, want that the rest is waited for: %t", size, err, waits)
		}
	}
}

// Containers that open as many connections as they can leave other containers their reserved ones.
func TestServer_ConnectionsAreBounded(t *testing.T) {
	r := newRig(t)
	r.setServices()
	open := func(b *testContainer, n int) {
		if err := b.ns.Do(func() error {
			for range n {
				c, err := net.DialTimeout("tcp", "127.0.0.11:53", time.Second)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = c.Close() })
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	hostile := 1 + sharedStreams/(maxStreams-reservedStreams)
	for i := range hostile {
		open(r.start(&swarmv1.ResolverContainer{Id: string(rune('a' + i)), NetworkIds: []string{"n1"}}), maxStreams)
	}
	eventually.True(t, "the server has all the connections that it may", func() bool { return len(r.server.streams) == sharedStreams })
	victim := r.start(&swarmv1.ResolverContainer{Id: "victim", NetworkIds: []string{"n1"}})
	open(victim, reservedStreams-1)
	victim.expect("web", "10.0.1.2")
	open(victim, maxStreams)
	if got := victim.ask("tcp", "web"); got == "10.0.1.2" {
		t.Error("a connection beyond all of them is served")
	}
}

func TestQuota(t *testing.T) {
	shared := make(chan struct{}, 3)
	a, b := newQuota(2, 4, shared), newQuota(2, 4, shared)
	var free []func()
	take := func(q quota, want int) {
		t.Helper()
		for got := 0; ; got++ {
			f, ok := q.acquire()
			if !ok {
				if got != want {
					t.Errorf("took %d, want %d", got, want)
				}
				return
			}
			free = append(free, f)
		}
	}
	take(a, 4)
	take(b, 3)
	for _, f := range free {
		f()
	}
	take(b, 4)
}
