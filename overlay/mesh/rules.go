//go:build linux

package mesh

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"swarm/overlay/hostport"
	"swarm/overlay/nft"
	"swarm/overlay/slots"
)

// The table; maps and rules of IPv6 are the like:
//
//	map any4-10:  protocol . port . 0-9 -> address . port            ports on all addresses, with ten slots each
//	map one4-10:  address . protocol . port . 0-9 -> address . port  ports on one address
//	map here4-10: protocol . port . 0-9 -> address . port            backends on this host, for the other hosts
//	map peers:    hardware address -> mark
//	set held, held4: ports that this host answers at
//	set turned4:  address . address     peers as clients, and as hosts of the backend
//
//	mark (prerouting): answers get the mark of their connection, and are routed by it; no peer can name 127.0.0.0/8
//	in (prerouting), nat: a connection by a peer gets its mark; chain `here` for it, then chain `front`
//	out (output), nat: chain `front`
//	in-again, out-again: the same for a connection that found nothing, see below
//	back (postrouting), nat: masquerade the host's loopback, and a peer that would be answered by itself
//	leave (postrouting): segments fit the mesh, whatever the ways there say of packets that do not; the mark ends here
//	closed (input): what no rule has redirected found no backend, and is refused; so is all that comes by the mesh for the
//	      host itself
//
// A port is in one map of a kind at a time, and moves between sizes in one transaction. A packet is not judged in one: that
// the kernel commits between two lookups may hide the port in both maps, and so each is looked up twice.
const tableName = "swarm-mesh"

type kind int

const (
	kindAny kind = iota
	kindOne
	kindHere
)

func (k kind) String() string { return [...]string{"any", "one", "here"}[k] }

// chain that looks the kind up.
func (k kind) chain() string {
	if k == kindHere {
		return "here"
	}
	return "front"
}

// entry is what a slots table belongs to.
type entry struct {
	kind   kind
	family int // index of nft.Families
	port   Port
}

// desired is the content of the nftables table.
type desired struct {
	entries map[entry][]target
	peers   []Node
	held    []Port
}

// service is what stands behind an entry now.
type service struct {
	backends, slots []target
}

// rules is the nftables side: what this process has written, and how.
type rules struct {
	index int // of the device; 0: there is none
	port  int // of VXLAN
	mtu   int
	conn  nft.Conn
	// last is what was asked for; written is false until it is in the kernel.
	last     desired
	written  bool
	services map[entry]service
	rungs    map[rung]bool
}

func (r *rules) forgetTable() {
	r.written, r.services, r.rungs, r.last = false, nil, nil, desired{}
}

// sync brings the table in line, in one transaction: the first of a process replaces it.
func (r *rules) sync(want desired) (departures, error) {
	next, left := r.fill(want)
	if !r.written {
		return left, r.replace(want, next)
	}
	change := newChange()
	for e, now := range next {
		was, ok := r.services[e]
		switch {
		case !ok:
			change.add(e, now.slots)
		case !slices.Equal(was.slots, now.slots):
			change.move(e, was.slots, now.slots)
		}
	}
	for e, was := range r.services {
		if _, ok := next[e]; !ok {
			change.remove(e, was.slots)
		}
	}
	change.fixed(r.last, want)
	if change.empty() {
		r.last, r.services = want, next
		return left, nil
	}
	if err := r.conn.Do(func(c *nftables.Conn) error { return change.write(c, r.rungs) }); err != nil {
		// Somebody has changed the table: write all of it.
		return left, r.replace(want, next)
	}
	r.last, r.services = want, next
	return left, nil
}

// fill chooses the slots, and tells who has left.
func (r *rules) fill(want desired) (map[entry]service, departures) {
	next := make(map[entry]service, len(want.entries))
	left := departures{left: make(map[uint16][]netip.AddrPort), fresh: make(map[uint16]bool)}
	for e, backends := range want.entries {
		was := r.services[e]
		if slices.Equal(was.backends, backends) {
			next[e] = was
			continue
		}
		next[e] = service{backends, slots.Fill(was.slots, backends, compareTargets)}
		left.note(e, was.backends, backends)
	}
	for e, was := range r.services {
		if _, ok := want.entries[e]; !ok {
			left.note(e, was.backends, nil)
		}
	}
	if !r.written {
		// Flows of an earlier process may lead to backends that have left since.
		left.sweep(want)
	}
	return next, left
}

func (r *rules) replace(want desired, next map[entry]service) error {
	r.written = false
	change := newChange()
	for e, s := range next {
		change.add(e, s.slots)
	}
	change.fixed(desired{}, want)
	rungs := make(map[rung]bool)
	if err := r.conn.Do(func(c *nftables.Conn) error {
		r.frame(c)
		return change.write(c, rungs)
	}); err != nil {
		return err
	}
	r.last, r.services, r.rungs, r.written = want, next, rungs, true
	return nil
}

func (r *rules) remove() error {
	r.forgetTable()
	return nft.RemoveTable(&r.conn, table())
}

// mend replaces the table when it is not what it was.
func (r *rules) mend(log *slog.Logger) error {
	if !r.written {
		return nil
	}
	var intact bool
	// What cannot be read is not intact; an error here only ends the connection.
	_ = r.conn.Do(func(c *nftables.Conn) (err error) {
		intact, err = r.intact(c)
		return err
	})
	if intact {
		return nil
	}
	log.Warn("nftables table was changed by another program, writing it again", "table", tableName)
	return r.replace(r.last, r.services)
}

// intact compares what is cheap to compare: the chains' lengths, and the sizes of the sets that do not grow with the backends.
// Our own changes wake whoever watches the rules, so this runs often.
func (r *rules) intact(c *nftables.Conn) (bool, error) {
	lengths := map[string]int{kindHere.chain(): 0, kindAny.chain(): 0}
	for _, ch := range r.chains() {
		lengths[ch.Name] = len(ch.Rules)
	}
	for g := range r.rungs {
		lengths[g.kind.chain()]++
	}
	for name, want := range lengths {
		rules, err := c.GetRules(table(), &nftables.Chain{Name: name, Table: table()})
		if err != nil || len(rules) != want {
			return false, err
		}
	}
	content := r.last.fixed()
	for name, s := range fixedSets() {
		elements, err := c.GetSetElements(s)
		if err != nil || len(elements) != len(content[name]) {
			return false, err
		}
	}
	return true, nil
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

// rung is a map for tables of one size.
type rung struct {
	kind   kind
	family int
	size   int
}

func (g rung) set() *nftables.Set {
	f := nft.Families()[g.family]
	key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark}
	if g.kind == kindOne {
		key = append([]nftables.SetDatatype{f.Address}, key...)
	}
	return &nftables.Set{
		Table: table(), Name: fmt.Sprintf("%s%s-%d", g.kind, f.Digit, g.size),
		// The number ties rules to sets of one batch.
		ID: uint32(1000 + 6*g.size + 2*int(g.kind) + g.family), IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(f.Address, nftables.TypeInetService),
	}
}

// create adds the map and the rule that looks it up.
func (g rung) create(c *nftables.Conn) error {
	f, s := nft.Families()[g.family], g.set()
	if err := c.AddSet(s, nil); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	load, at := nft.ToLocal(), 0
	switch g.kind {
	case kindOne:
		load, at = []expr.Any{f.LoadDst(nft.Reg)}, f.Words()
	case kindHere:
		load = nil // It came to us.
	}
	c.AddRule(&nftables.Rule{Table: table(), Chain: &nftables.Chain{Table: table(), Name: g.kind.chain()}, Exprs: nft.Join(
		f.Is(), load, loadPort(at), nft.Random(nft.Reg32(at+2), g.size),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, f.DNAT(true),
	)})
	return nil
}

// loadPort puts protocol and destination port into the registers from the at-th on.
func loadPort(at int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(at)},
		&expr.Payload{DestRegister: nft.Reg32(at + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// change gathers elements to take away and to add, of rungs and of the fixed sets.
type change struct {
	gone, come           map[rung][]nftables.SetElement
	fixedGone, fixedCome map[string][]nftables.SetElement
}

func newChange() change {
	return change{
		make(map[rung][]nftables.SetElement), make(map[rung][]nftables.SetElement),
		make(map[string][]nftables.SetElement), make(map[string][]nftables.SetElement),
	}
}

func (c change) empty() bool {
	return len(c.gone)+len(c.come)+len(c.fixedGone)+len(c.fixedCome) == 0
}

func (p Port) key() []byte {
	var key []byte
	if p.IP.IsValid() {
		key = p.IP.AsSlice()
	}
	return slices.Concat(key, nft.Pad([]byte{hostport.Number(p.Protocol)}), nft.Port(p.Published))
}

func element(e entry, slot int, t target) nftables.SetElement {
	return nftables.SetElement{Key: append(e.port.key(), nft.Slot(slot)...), Val: append(t.to.Addr().AsSlice(), nft.Port(t.to.Port())...)}
}

func (c change) add(e entry, table []target)    { gather(c.come, e, table) }
func (c change) remove(e entry, table []target) { gather(c.gone, e, table) }

func gather(to map[rung][]nftables.SetElement, e entry, table []target) {
	g := rung{e.kind, e.family, len(table)}
	for i, t := range table {
		to[g] = append(to[g], element(e, i, t))
	}
}

func (c change) move(e entry, from, to []target) {
	if len(from) != len(to) {
		c.remove(e, from)
		c.add(e, to)
		return
	}
	g := rung{e.kind, e.family, len(to)}
	for i := range to {
		if from[i].to != to[i].to {
			c.gone[g] = append(c.gone[g], element(e, i, from[i]))
			c.come[g] = append(c.come[g], element(e, i, to[i]))
		}
	}
}

// fixed notes the difference of the sets that are always there.
func (c change) fixed(from, to desired) {
	if slices.Equal(from.held, to.held) && slices.EqualFunc(from.peers, to.peers, Node.equal) {
		return
	}
	before, after := from.fixed(), to.fixed()
	for name, elements := range before {
		for key, e := range elements {
			if now, ok := after[name][key]; !ok || string(now.Val) != string(e.Val) {
				c.fixedGone[name] = append(c.fixedGone[name], e)
			}
		}
	}
	for name, elements := range after {
		for key, e := range elements {
			if was, ok := before[name][key]; !ok || string(was.Val) != string(e.Val) {
				c.fixedCome[name] = append(c.fixedCome[name], e)
			}
		}
	}
}

// fixed spells peers and held ports out for their sets.
func (d desired) fixed() map[string]map[string]nftables.SetElement {
	out := make(map[string]map[string]nftables.SetElement)
	put := func(set string, key, val []byte) {
		if out[set] == nil {
			out[set] = make(map[string]nftables.SetElement)
		}
		out[set][string(key)] = nftables.SetElement{Key: key, Val: val}
	}
	for _, p := range d.held {
		name := "held"
		if p.IP.IsValid() {
			name += map[bool]string{true: "4", false: "6"}[p.IP.Is4()]
		}
		put(name, p.key(), nil)
	}
	for _, p := range d.peers {
		put("peers", p.mac(), binaryutil.NativeEndian.PutUint32(p.mark()))
		for _, f := range nft.Families() {
			for _, own := range append([]netip.Addr{p.Underlay}, p.Others...) {
				if a := p.address(f); a.IsValid() && f.Of(own) {
					put("turned"+f.Digit, append(own.AsSlice(), a.AsSlice()...), nil)
				}
			}
		}
	}
	return out
}

// fixedSets are always there.
func fixedSets() map[string]*nftables.Set {
	port := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	sets := []*nftables.Set{
		{ID: 1, Name: "peers", IsMap: true, KeyType: nftables.TypeEtherAddr, DataType: nftables.TypeMark},
		{ID: 2, Name: "held", Concatenation: true, KeyType: nftables.MustConcatSetType(port...)},
	}
	for i, f := range nft.Families() {
		sets = append(sets,
			&nftables.Set{ID: uint32(3 + i), Name: "held" + f.Digit, Concatenation: true, KeyType: nftables.MustConcatSetType(append([]nftables.SetDatatype{f.Address}, port...)...)},
			&nftables.Set{ID: uint32(5 + i), Name: "turned" + f.Digit, Concatenation: true, KeyType: nftables.MustConcatSetType(f.Address, f.Address)})
	}
	out := make(map[string]*nftables.Set)
	for _, s := range sets {
		s.Table = table()
		out[s.Name] = s
	}
	return out
}

// write queues and commits the change, with maps and rules for sizes that come into use.
func (c change) write(conn *nftables.Conn, rungs map[rung]bool) error {
	var fresh []rung
	for _, g := range slices.SortedFunc(maps.Keys(c.come), func(a, b rung) int { return a.size - b.size }) {
		if !rungs[g] {
			fresh = append(fresh, g)
			if err := g.create(conn); err != nil {
				return err
			}
		}
	}
	sets := fixedSets()
	for _, step := range []struct {
		rungs map[rung][]nftables.SetElement
		fixed map[string][]nftables.SetElement
		apply func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error
	}{{c.gone, c.fixedGone, nft.DeleteElements}, {c.come, c.fixedCome, nft.AddElements}} {
		for g, elements := range step.rungs {
			if err := step.apply(conn, g.set(), elements); err != nil {
				return err
			}
		}
		for name, elements := range step.fixed {
			if err := step.apply(conn, sets[name], elements); err != nil {
				return err
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with inet, nat, numgen, fib and ct): %w", tableName, err)
	}
	for _, g := range fresh {
		rungs[g] = true
	}
	return nil
}
