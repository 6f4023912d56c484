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

// tableName is the name of the nftables table. Each map and set with the digit 4 in its name exists
// also with the digit 6, for IPv6. There is one map anyF-N, oneF-N and hereF-N for each number N of
// slots that a port has. For example, any4-10 is the map of the ports with ten slots:
//
//	map any4-10:  protocol . port . 0-9 -> address . port            ports on all addresses
//	map one4-10:  address . protocol . port . 0-9 -> address . port  ports on one address
//	map here4-10: protocol . mesh port . 0-9 -> address . port       containers on this host (see below)
//	map peers:    hardware address -> mark
//	set held, held4: ports at which this host answers
//	set hairpin4:  address . address     underlay or further address of a peer . mesh address of the same peer
//
//	restore-mark (prerouting): copies the mark of the connection to answers, which are routed by it;
//	      drops packets from peers to 127.0.0.0/8
//	here: looks up the maps hereF-N and redirects the connection
//	front: looks up the maps anyF-N and oneF-N and redirects the connection
//	in (prerouting), nat: sets the mark of connections from peers and sends them to `here`, then
//	      sends all connections to `front`
//	out (output), nat: sends connections to `front`
//	in-again, out-again: repeat `in` and `out` for connections that were not redirected, see below
//	masq (postrouting), nat: masquerades connections from the host's loopback address, and
//	      connections from a peer to a backend on the same peer
//	to-peers (postrouting): for packets to peers: clamps the TCP segment size to the MTU of the mesh,
//	      because a client's path may not report packets that are too big; clears the mark
//	host-input (input): rejects connections to published ports that were not redirected, because
//	      there is no backend; rejects packets from the mesh to the host itself
//
// The maps hereF-N are for connections that another host forwards to this host. They have the
// backends on this host, or the standby containers if there is no backend. Their keys have the mesh
// port, and those of the other maps the published port.
//
// A port is in one map of a kind at a time. It moves to a map of another size in one transaction.
// The lookups of one packet are not atomic: if the kernel commits a transaction between two
// lookups, both may miss the port. So each packet passes `here` and `front` twice, from `in` and
// from `in-again`.
const tableName = "swarm-mesh"

// kind is a kind of map: for ports on all addresses, for ports on one address, or for backends on
// this host.
type kind int

const (
	kindAny kind = iota
	kindOne
	kindHere
)

func (k kind) String() string { return [...]string{"any", "one", "here"}[k] }

// chain returns the name of the chain that looks up the maps of this kind.
func (k kind) chain() string {
	if k == kindHere {
		return "here"
	}
	return "front"
}

// entry identifies a port in the maps of one kind and family.
type entry struct {
	kind   kind
	family int // index of nft.Families
	// port is the published port. For kindHere, port.Published is the mesh port, and port.IP is not
	// set.
	port Port
}

// content is the content of the nftables table, as far as it depends on the state.
type content struct {
	entries map[entry][]target
	peers   []Node
	held    []Port
}

// service holds the backends and the slots of an entry.
type service struct {
	backends, slots []target
}

// rules holds the nftables rules of the mesh, and what this process has written to the kernel.
type rules struct {
	index int // interface index of the device; zero if there is none
	port  int // UDP port of VXLAN
	mtu   int
	conn  nft.Conn
	// lastWanted is the content of the last sync. written says that the kernel has this content.
	lastWanted  content
	written     bool
	services    map[entry]service
	sizeClasses map[sizeClass]bool // the maps that exist in the kernel
}

// reset discards what is known about the table in the kernel, so that the next sync replaces it.
func (r *rules) reset() {
	r.written, r.services, r.sizeClasses, r.lastWanted = false, nil, nil, content{}
}

// sync makes the table match the desired content, in one transaction. The first sync of a process
// replaces the whole table. sync returns the flows that the caller must delete afterwards.
func (r *rules) sync(want content) (staleFlows, error) {
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
	change.addFixed(r.lastWanted, want)
	if change.empty() {
		r.lastWanted, r.services = want, next
		return left, nil
	}
	if err := r.conn.Do(func(c *nftables.Conn) error { return change.write(c, r.sizeClasses) }); err != nil {
		// Another program may have changed the table, so write the whole table again.
		return left, r.replace(want, next)
	}
	r.lastWanted, r.services = want, next
	return left, nil
}

// fill assigns the slots of each entry, and returns the flows that become stale.
func (r *rules) fill(want content) (map[entry]service, staleFlows) {
	next := make(map[entry]service, len(want.entries))
	left := staleFlows{leftBackends: make(map[uint16][]netip.AddrPort), newUDPPorts: make(map[uint16]bool)}
	for e, backends := range want.entries {
		was := r.services[e]
		if slices.Equal(was.backends, backends) {
			next[e] = was
			continue
		}
		next[e] = service{backends, slots.Fill(was.slots, backends, compareTargets)}
		left.addLeft(e, was.backends, backends)
	}
	for e, was := range r.services {
		if _, ok := want.entries[e]; !ok {
			left.addLeft(e, was.backends, nil)
		}
	}
	if !r.written {
		// An earlier process may have left flows to backends that have left since.
		left.addUnknown(want)
	}
	return next, left
}

// replace writes the whole table in one transaction.
func (r *rules) replace(want content, next map[entry]service) error {
	r.written = false
	change := newChange()
	for e, s := range next {
		change.add(e, s.slots)
	}
	change.addFixed(content{}, want)
	sizeClasses := make(map[sizeClass]bool)
	if err := r.conn.Do(func(c *nftables.Conn) error {
		r.writeSkeleton(c)
		return change.write(c, sizeClasses)
	}); err != nil {
		return err
	}
	r.lastWanted, r.services, r.sizeClasses, r.written = want, next, sizeClasses, true
	return nil
}

func (r *rules) removeTables() error {
	r.reset()
	return nft.RemoveTable(&r.conn, table())
}

// repair writes the table again if another program has changed it.
func (r *rules) repair(log *slog.Logger) error {
	if !r.written {
		return nil
	}
	var intact bool
	// The table is not intact if it cannot be read. Do closes the connection after an error.
	_ = r.conn.Do(func(c *nftables.Conn) (err error) {
		intact, err = r.intact(c)
		return err
	})
	if intact {
		return nil
	}
	log.Warn("another program changed our nftables table; it is written again", "table", tableName)
	return r.replace(r.lastWanted, r.services)
}

// intact reports whether the table in the kernel has what this process has written. It compares
// only the length of each chain and the sizes of the fixed sets. These do not grow with the number
// of backends. It must be cheap, because it also runs after our own changes.
func (r *rules) intact(c *nftables.Conn) (bool, error) {
	lengths := map[string]int{kindHere.chain(): 0, kindAny.chain(): 0}
	for _, ch := range r.chains() {
		lengths[ch.Name] = len(ch.Rules)
	}
	for sc := range r.sizeClasses {
		lengths[sc.kind.chain()]++
	}
	for name, want := range lengths {
		rules, err := c.GetRules(table(), &nftables.Chain{Name: name, Table: table()})
		if err != nil || len(rules) != want {
			return false, err
		}
	}
	want := r.lastWanted.fixedElements()
	for name, s := range fixedSets() {
		elements, err := c.GetSetElements(s)
		if err != nil || len(elements) != len(want[name]) {
			return false, err
		}
	}
	return true, nil
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

// sizeClass identifies the map of the entries with the same kind, family and number of slots.
type sizeClass struct {
	kind   kind
	family int // index of nft.Families
	size   int // number of slots
}

func (sc sizeClass) set() *nftables.Set {
	f := nft.Families()[sc.family]
	key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark}
	if sc.kind == kindOne {
		key = append([]nftables.SetDatatype{f.Address}, key...)
	}
	return &nftables.Set{
		Table: table(), Name: fmt.Sprintf("%s%s-%d", sc.kind, f.Digit, sc.size),
		// A rule refers to a set of the same batch by the ID of the set. Each size has six maps:
		// three kinds in two families. The fixed sets have IDs below 1000.
		ID: uint32(1000 + 6*sc.size + 2*int(sc.kind) + sc.family), IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(f.Address, nftables.TypeInetService),
	}
}

// create queues the map and the rule that looks it up.
func (sc sizeClass) create(c *nftables.Conn) error {
	f, s := nft.Families()[sc.family], sc.set()
	if err := c.AddSet(s, nil); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	load, at := nft.ToLocal(), 0
	switch sc.kind {
	case kindOne:
		load, at = []expr.Any{f.LoadDst(nft.Reg)}, f.Words()
	case kindHere:
		load = nil // Connections from peers are always for this host.
	}
	c.AddRule(&nftables.Rule{Table: table(), Chain: &nftables.Chain{Table: table(), Name: sc.kind.chain()}, Exprs: nft.Join(
		f.Is(), load, loadPort(at), nft.Random(nft.Reg32(at+2), sc.size),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, f.DNAT(true),
	)})
	return nil
}

// loadPort puts the protocol and the destination port into the 4-byte registers at and at+1.
func loadPort(at int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(at)},
		&expr.Payload{DestRegister: nft.Reg32(at + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// change collects the elements to remove and to add, of the maps and of the fixed sets.
type change struct {
	removed, added           map[sizeClass][]nftables.SetElement
	fixedRemoved, fixedAdded map[string][]nftables.SetElement
}

func newChange() change {
	return change{
		make(map[sizeClass][]nftables.SetElement), make(map[sizeClass][]nftables.SetElement),
		make(map[string][]nftables.SetElement), make(map[string][]nftables.SetElement),
	}
}

func (c change) empty() bool {
	return len(c.removed)+len(c.added)+len(c.fixedRemoved)+len(c.fixedAdded) == 0
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

func (c change) add(e entry, slots []target)    { gather(c.added, e, slots) }
func (c change) remove(e entry, slots []target) { gather(c.removed, e, slots) }

// gather appends one element for each slot of the entry.
func gather(to map[sizeClass][]nftables.SetElement, e entry, slots []target) {
	sc := sizeClass{e.kind, e.family, len(slots)}
	for i, t := range slots {
		to[sc] = append(to[sc], element(e, i, t))
	}
}

// move replaces the slots of an entry.
func (c change) move(e entry, from, to []target) {
	if len(from) != len(to) {
		c.remove(e, from)
		c.add(e, to)
		return
	}
	sc := sizeClass{e.kind, e.family, len(to)}
	for i := range to {
		if from[i].to != to[i].to {
			c.removed[sc] = append(c.removed[sc], element(e, i, from[i]))
			c.added[sc] = append(c.added[sc], element(e, i, to[i]))
		}
	}
}

// addFixed adds the differences of the fixed sets to the change.
func (c change) addFixed(from, to content) {
	if slices.Equal(from.held, to.held) && slices.EqualFunc(from.peers, to.peers, Node.equal) {
		return
	}
	before, after := from.fixedElements(), to.fixedElements()
	for name, elements := range before {
		for key, e := range elements {
			if now, ok := after[name][key]; !ok || string(now.Val) != string(e.Val) {
				c.fixedRemoved[name] = append(c.fixedRemoved[name], e)
			}
		}
	}
	for name, elements := range after {
		for key, e := range elements {
			if was, ok := before[name][key]; !ok || string(was.Val) != string(e.Val) {
				c.fixedAdded[name] = append(c.fixedAdded[name], e)
			}
		}
	}
}

// fixedElements returns the elements of each fixed set, by their keys.
func (d content) fixedElements() map[string]map[string]nftables.SetElement {
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
					put("hairpin"+f.Digit, append(own.AsSlice(), a.AsSlice()...), nil)
				}
			}
		}
	}
	return out
}

// fixedSets returns the sets whose number and names do not depend on the content.
func fixedSets() map[string]*nftables.Set {
	port := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	sets := []*nftables.Set{
		{ID: 1, Name: "peers", IsMap: true, KeyType: nftables.TypeEtherAddr, DataType: nftables.TypeMark},
		{ID: 2, Name: "held", Concatenation: true, KeyType: nftables.MustConcatSetType(port...)},
	}
	for i, f := range nft.Families() {
		sets = append(sets,
			&nftables.Set{ID: uint32(3 + i), Name: "held" + f.Digit, Concatenation: true, KeyType: nftables.MustConcatSetType(append([]nftables.SetDatatype{f.Address}, port...)...)},
			&nftables.Set{ID: uint32(5 + i), Name: "hairpin" + f.Digit, Concatenation: true, KeyType: nftables.MustConcatSetType(f.Address, f.Address)})
	}
	out := make(map[string]*nftables.Set)
	for _, s := range sets {
		s.Table = table()
		out[s.Name] = s
	}
	return out
}

// write commits the change in one transaction. It also creates the maps and rules of new size
// classes.
func (c change) write(conn *nftables.Conn, sizeClasses map[sizeClass]bool) error {
	var fresh []sizeClass
	for _, sc := range slices.SortedFunc(maps.Keys(c.added), func(a, b sizeClass) int { return a.size - b.size }) {
		if !sizeClasses[sc] {
			fresh = append(fresh, sc)
			if err := sc.create(conn); err != nil {
				return err
			}
		}
	}
	sets := fixedSets()
	for _, step := range []struct {
		sizeClasses map[sizeClass][]nftables.SetElement
		fixed       map[string][]nftables.SetElement
		apply       func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error
	}{{c.removed, c.fixedRemoved, nft.DeleteElements}, {c.added, c.fixedAdded, nft.AddElements}} {
		for sc, elements := range step.sizeClasses {
			if err := step.apply(conn, sc.set(), elements); err != nil {
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
	for _, sc := range fresh {
		sizeClasses[sc] = true
	}
	return nil
}
