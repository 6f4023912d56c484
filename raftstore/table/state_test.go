package table

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// random generates entries over few keys, so that preconditions and names conflict.
type random struct {
	*rand.Rand
	seen map[string]uint64 // versions that a caller may have read, by table and key
}

func newRandom(seed uint64) *random {
	return &random{rand.New(rand.NewPCG(seed, 1)), make(map[string]uint64)}
}

func (r *random) change() *swarmv1.Change {
	id := fmt.Sprintf("k%d", r.IntN(12))
	version := r.seen["task/"+id]
	if r.IntN(5) == 0 {
		version = uint64(r.IntN(50))
	}
	tk := &swarmv1.Task{
		Id: id, ServiceId: fmt.Sprintf("s%d", r.IntN(3)), Slot: uint64(r.IntN(3)), NodeId: []string{"", "n1", "n2"}[r.IntN(3)],
		Meta: &swarmv1.Meta{Version: version},
	}
	svc := &swarmv1.Service{Id: fmt.Sprintf("s%d", r.IntN(6)), Name: fmt.Sprintf("name%d", r.IntN(4))}
	st := &swarmv1.TaskStatus{TaskId: id, SessionEpoch: uint64(r.IntN(3)), Sequence: uint64(r.IntN(5))}
	switch r.IntN(10) {
	case 0, 1:
		return Create(tk)
	case 2, 3:
		return Update(tk)
	case 4:
		return Delete(tk)
	case 5:
		return Put(svc)
	case 6:
		return DeleteKey(Service, svc.Id)
	case 7:
		return Create(st)
	case 8:
		return Report(st)
	default:
		return Create(&swarmv1.Claim{Key: fmt.Sprintf("port/%d", r.IntN(4)), Owner: id})
	}
}

func (r *random) envelope() *swarmv1.Envelope {
	env := &swarmv1.Envelope{Format: Format, Time: timestamppb.Now()}
	for range 1 + r.IntN(3) {
		req := &swarmv1.Request{Session: []byte{byte(r.IntN(3))}, Sequence: uint64(r.IntN(60)), LowestUnanswered: uint64(r.IntN(20)), Actor: "test"}
		for range 1 + r.IntN(3) {
			g := &swarmv1.Group{}
			for range 1 + r.IntN(3) {
				g.Changes = append(g.Changes, r.change())
			}
			req.Groups = append(req.Groups, g)
		}
		env.Requests = append(env.Requests, req)
	}
	return env
}

// replica is a state and the helpers of the tests.
type replica struct{ *State }

func newReplica() replica { return replica{NewState()} }

// apply applies an entry and returns its answers.
func (r replica) apply(tb testing.TB, index uint64, env *swarmv1.Envelope) []*swarmv1.Answer {
	tb.Helper()
	answers, _, err := r.Apply(index, encode(tb, env), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return answers
}

func encode(tb testing.TB, env *swarmv1.Envelope) []byte {
	tb.Helper()
	data, err := env.MarshalVT()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// dump returns the whole state as text: rows, indexes and sessions.
func dump(f replica) string {
	var b bytes.Buffer
	v := f.View()
	fmt.Fprintln(&b, "index", v.index)
	v.rows(func(r Row) bool {
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		fmt.Fprintf(&b, "%T %s %x\n", r, Key(r), data)
		return true
	})
	v.Tasks.trees.indexes[bySlot].tree.Scan(func(t *swarmv1.Task) bool { fmt.Fprintln(&b, "slot", t.ServiceId, t.Slot, t.Id); return true })
	v.Tasks.trees.indexes[byNode].tree.Scan(func(t *swarmv1.Task) bool { fmt.Fprintln(&b, "node", t.NodeId, t.Id); return true })
	v.Services.trees.byName.Scan(func(n string, s *swarmv1.Service) bool { fmt.Fprintln(&b, "name", n, s.Id); return true })
	for _, s := range f.requests.save() {
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		fmt.Fprintf(&b, "session %x\n", data)
	}
	return b.String()
}

func TestApply_TwiceGivesTheSame(t *testing.T) {
	for seed := range uint64(20) {
		r := newRandom(seed)
		a, b := newReplica(), newReplica()
		var batch []*swarmv1.Envelope
		for i := range uint64(200) {
			env := r.envelope()
			a.apply(t, i+1, env)
			a.View()
			if batch = append(batch, env); r.IntN(5) == 0 || i == 199 { // b makes fewer views
				for j, e := range batch {
					b.apply(t, i+2-uint64(len(batch)-j), e)
				}
				batch = nil
				if r.IntN(2) == 0 {
					b.View()
				}
			}
		}
		if diff := cmp.Diff(dump(a), dump(b)); diff != "" {
			t.Fatalf("seed %d: states differ:\n%s", seed, diff)
		}
	}
}

func TestApply_ViewsNeverChange(t *testing.T) {
	r := newRandom(7)
	f := newReplica()
	type held struct {
		view *View
		was  string
	}
	text := func(v *View) string {
		var keys []string
		v.rows(func(r Row) bool { keys = append(keys, fmt.Sprint(Key(r), r.GetMeta().GetVersion())); return true })
		for t := range v.TasksOfService("s1") {
			keys = append(keys, t.Id)
		}
		for t := range v.TasksOnNode("n1") {
			keys = append(keys, t.Id)
		}
		return fmt.Sprint(keys)
	}
	var views []held
	for i := range uint64(300) {
		f.apply(t, i+1, r.envelope())
		if r.IntN(3) == 0 {
			v := f.View()
			views = append(views, held{v, text(v)})
		}
	}
	for _, h := range views {
		if got := text(h.view); got != h.was {
			t.Fatalf("view %d has changed:\n got %s\nwant %s", h.view.index, got, h.was)
		}
	}
}

// model is a second, independent implementation of the rules of Apply, with plain maps.
type model map[string]Row

func (m model) group(index uint64, g *swarmv1.Group) (codes.Code, model) {
	next := maps.Clone(m)
	for _, c := range g.GetChanges() {
		var key string
		var row Row
		if d := c.GetDelete(); d != nil {
			key = fmt.Sprint(d.Table, "/", d.Key)
		} else {
			table, r := unwrap(c.GetPut())
			key, row = fmt.Sprint(uint32(table), "/", Key(r)), proto.Clone(r).(Row)
		}
		old := next[key]
		switch p := c.GetPrecondition().(type) {
		case *swarmv1.Change_IfAbsent:
			if old != nil {
				return codes.AlreadyExists, m
			}
		case *swarmv1.Change_IfVersion:
			if old == nil {
				return codes.NotFound, m
			}
			if old.GetMeta().GetVersion() != p.IfVersion {
				return codes.Aborted, m
			}
		case *swarmv1.Change_IfNewer:
			if old == nil {
				return codes.NotFound, m
			}
			a, b := old.(*swarmv1.TaskStatus), row.(*swarmv1.TaskStatus)
			if slices.Compare([]uint64{b.SessionEpoch, b.Sequence}, []uint64{a.SessionEpoch, a.Sequence}) <= 0 {
				return codes.Aborted, m
			}
		}
		if row == nil {
			delete(next, key)
			continue
		}
		if svc, ok := row.(*swarmv1.Service); ok {
			for k, r := range next {
				if other, ok := r.(*swarmv1.Service); ok && k != key && other.Name == svc.Name {
					return codes.AlreadyExists, m
				}
			}
		}
		reflectMeta(row, index)
		next[key] = row
	}
	return codes.OK, next
}

func reflectMeta(r Row, version uint64) {
	m := &swarmv1.Meta{Version: version}
	f := r.ProtoReflect().Descriptor().Fields().ByName("meta")
	r.ProtoReflect().Set(f, protoreflect.ValueOfMessage(m.ProtoReflect()))
}

func TestApply_AgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		r := newRandom(seed + 100)
		f, m := newReplica(), model{}
		for i := range uint64(150) {
			env := r.envelope()
			for _, req := range env.Requests {
				req.Session = nil // without a session, no answers are kept
			}
			got := f.apply(t, i+1, env)
			for j, req := range env.Requests {
				refused := map[int]codes.Code{}
				for _, x := range got[j].GetRefused() {
					refused[int(x.Group)] = codes.Code(x.Result.Code)
				}
				for k, g := range req.Groups {
					want, next := m.group(i+1, g)
					m = next
					if refused[k] != want {
						t.Fatalf("seed %d, entry %d, group %v: got %s, want %s", seed, i+1, g, refused[k], want)
					}
				}
			}
			count := 0
			f.View().rows(func(row Row) bool {
				count++
				table, _ := wrap(row)
				want := m[fmt.Sprint(uint32(table), "/", Key(row))]
				if want == nil || want.GetMeta().GetVersion() != row.GetMeta().GetVersion() {
					t.Fatalf("seed %d, entry %d: row %s is %v, want %v", seed, i+1, Key(row), row, want)
				}
				if tk, ok := row.(*swarmv1.Task); ok {
					r.seen["task/"+tk.Id] = tk.Meta.Version
				}
				return true
			})
			if count != len(m) {
				t.Fatalf("seed %d, entry %d: %d rows, want %d", seed, i+1, count, len(m))
			}
		}
	}
}

func TestApply_ARequestIsCarriedOutOnce(t *testing.T) {
	f := newReplica()
	req := &swarmv1.Request{Session: []byte("x"), Sequence: 1, LowestUnanswered: 1, Groups: []*swarmv1.Group{
		Group(Create(&swarmv1.Claim{Key: "a"})), Group(Delete(&swarmv1.Task{Id: "gone"})),
	}}
	env := &swarmv1.Envelope{Format: Format, Requests: []*swarmv1.Request{req}}
	first := f.apply(t, 5, env)[0]
	// The state goes through a snapshot, as if the new leader had been restored from one.
	f = restored(t, f)
	second := f.apply(t, 9, env)[0]
	if !first.EqualVT(second) || first.GetIndex() != 5 || len(first.GetRefused()) != 1 {
		t.Errorf("first answer %v, second %v", first, second)
	}
	if c, _ := f.View().Claims.Get("a"); c.GetMeta().GetVersion() != 5 {
		t.Errorf("carried out twice: %v", c)
	}
	// A later request acknowledges the answer of the first. A delayed copy of the first request is
	// then refused.
	later := &swarmv1.Request{Session: []byte("x"), Sequence: 2, LowestUnanswered: 2}
	f.apply(t, 10, &swarmv1.Envelope{Format: Format, Requests: []*swarmv1.Request{later}})
	if a := f.apply(t, 11, env)[0]; len(a.GetRefused()) != 2 {
		t.Errorf("a request that was given up is carried out: %v", a)
	}
	for i := range uint64(200) {
		r := &swarmv1.Request{Session: fmt.Append(nil, i), Sequence: 1, LowestUnanswered: 1}
		f.apply(t, 20+i, &swarmv1.Envelope{Format: Format, Requests: []*swarmv1.Request{r}})
	}
	if n := len(f.requests.byID); n != maxSessions {
		t.Errorf("%d sessions are remembered, want %d", n, maxSessions)
	}
}

func restored(tb testing.TB, f replica) replica {
	tb.Helper()
	var b bytes.Buffer
	if err := f.Snapshot().Write(&b); err != nil {
		tb.Fatal(err)
	}
	out, err := ReadSnapshot(&b)
	if err != nil {
		tb.Fatal(err)
	}
	return replica{out}
}

func TestSnapshot_RestoreGivesTheSame(t *testing.T) {
	for seed := range uint64(10) {
		r := newRandom(seed)
		f := newReplica()
		for i := range uint64(100) {
			f.apply(t, i+1, r.envelope())
		}
		g := restored(t, f)
		if diff := cmp.Diff(dump(f), dump(g)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		env := r.envelope()
		f.apply(t, 101, env)
		g.apply(t, 101, env)
		if diff := cmp.Diff(dump(f), dump(g)); diff != "" {
			t.Fatalf("seed %d: after one entry more: %s", seed, diff)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := newRandom(1)
	for range 5 {
		data, _ := r.envelope().MarshalVT()
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decode(data); err != nil {
			return
		}
		x := newReplica() // every entry that can be decoded must be applicable
		if _, _, err := x.Apply(1, data, nil); err != nil {
			t.Fatal(err)
		}
		restored(t, x)
	})
}

func FuzzRestore(f *testing.F) {
	r := newRandom(1)
	x := newReplica()
	for i := range uint64(30) {
		x.apply(f, i+1, r.envelope())
	}
	var b bytes.Buffer
	_ = x.Snapshot().Write(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if st, err := ReadSnapshot(bytes.NewReader(data)); err == nil {
			y := replica{st}
			if again := restored(t, y); dump(again) != dump(y) {
				t.Error("a restored state does not survive a second round")
			}
		}
	})
}

// Every kind of row in the protocol must have a table and be part of snapshots.
func TestSnapshot_HoldsEveryTable(t *testing.T) {
	f := newReplica()
	fields := (&swarmv1.Object{}).ProtoReflect().Descriptor().Fields()
	g := &swarmv1.Group{}
	for i := range fields.Len() {
		o := &swarmv1.Object{}
		row := o.ProtoReflect().Mutable(fields.Get(i)).Message()
		for _, name := range []protoreflect.Name{"id", "key", "node_id", "task_id", "service_id", "digest"} {
			if fd := row.Descriptor().Fields().ByName(name); fd != nil {
				row.Set(fd, protoreflect.ValueOfString("x"))
			}
		}
		g.Changes = append(g.Changes, &swarmv1.Change{Op: &swarmv1.Change_Put{Put: o}})
	}
	f.apply(t, 1, &swarmv1.Envelope{Format: Format, Time: timestamppb.Now(), Requests: []*swarmv1.Request{{
		Session: []byte("s"), Sequence: 1, Groups: []*swarmv1.Group{g},
	}}})
	kinds := map[string]bool{}
	restored(t, f).View().rows(func(r Row) bool {
		kinds[fmt.Sprintf("%T", r)] = true
		return true
	})
	if len(kinds) != fields.Len() || fields.Len() != idLimit-1 {
		t.Errorf("%d kinds of %d come back from a snapshot, and there are %d tables: %v", len(kinds), fields.Len(), idLimit-1, slices.Sorted(maps.Keys(kinds)))
	}
}

// Touch conflicts only with a Delete by version, in both orders.
func TestApply_Touch(t *testing.T) {
	f := newReplica()
	index := uint64(0)
	apply := func(c *swarmv1.Change) codes.Code {
		index++
		r := f.apply(t, index, &swarmv1.Envelope{Format: Format, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{Group(c)}}}})
		for _, refused := range r[0].GetRefused() {
			return codes.Code(refused.GetResult().GetCode())
		}
		return codes.OK
	}
	row := &swarmv1.Network{Id: "n", Spec: &swarmv1.NetworkSpec{Name: "app"}}
	if got := apply(Touch(row)); got != codes.NotFound {
		t.Errorf("touch of a row that is not there: got %v, want NotFound", got)
	}
	apply(Create(row.CloneVT()))
	read, _ := f.View().Networks.Get("n")
	for i := range 2 {
		if got := apply(Touch(read.CloneVT())); got != codes.OK {
			t.Errorf("touch %d of what was read once: got %v, want OK", i+1, got)
		}
	}
	if got := apply(Delete(read)); got != codes.Aborted {
		t.Errorf("delete by a version before it was touched: got %v, want Aborted", got)
	}
}
