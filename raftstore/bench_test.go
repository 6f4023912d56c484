package raftstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"swarm/internal/seal"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/logstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// tcp gives the members real TCP connections, so that the figures are realistic.
func tcp(tb testing.TB, id string, addrs *sync.Map) func(*raftstore.Deps) {
	return func(d *raftstore.Deps) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		d.Listener = lis
		addrs.Store(id, lis.Addr().String())
		d.Dial = func(ctx context.Context, to string) (net.Conn, error) {
			a, _ := addrs.Load(to)
			return (&net.Dialer{}).DialContext(ctx, "tcp", a.(string))
		}
	}
}

func diskTrio(b *testing.B, sealer logstore.Sealer) []*member {
	l := newLAN()
	dir := b.TempDir()
	var ms []*member
	var addrs sync.Map // node id -> address
	for i := range 3 {
		id := fmt.Sprintf("m%d", i+1)
		m := l.start(b, raftstore.Config{NodeID: id, Bootstrap: i == 0, Dir: filepath.Join(dir, id), Sealer: sealer}, tcp(b, id, &addrs))
		if ms = append(ms, m); i == 0 {
			m.awaitLead(b)
		} else if err := ms[0].AddVoter(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	return ms
}

// bareRaft starts three members of hashicorp/raft with an empty FSM, as the baseline for the store.
func bareRaft(b *testing.B) *raft.Raft {
	dir := b.TempDir()
	var all []*raft.Raft
	var servers []raft.Server
	var transports []*raft.NetworkTransport
	for i := range 3 {
		tr, err := raft.NewTCPTransport("127.0.0.1:0", nil, 4, 5*time.Second, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		transports = append(transports, tr)
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: tr.LocalAddr()})
	}
	for i, tr := range transports {
		conf := raft.DefaultConfig()
		conf.LocalID, conf.LogOutput = servers[i].ID, io.Discard
		bolt, err := raftboltdb.New(raftboltdb.Options{
			Path:        filepath.Join(dir, fmt.Sprint(i)),
			BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		})
		if err != nil {
			b.Fatal(err)
		}
		snaps := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(conf, bolt, bolt, snaps, tr, raft.Configuration{Servers: servers}); err != nil {
			b.Fatal(err)
		}
		r, err := raft.NewRaft(conf, &raft.MockFSM{}, bolt, bolt, snaps, tr)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, r)
		b.Cleanup(func() { r.Shutdown().Error(); tr.Close(); bolt.Close() })
	}
	for {
		for _, r := range all {
			if r.State() == raft.Leader && r.Barrier(0).Error() == nil {
				return r
			}
		}
		<-time.After(10 * time.Millisecond)
	}
}

func load(b *testing.B, proposers int, do func(i int64) error) {
	var next atomic.Int64
	took := make([][]time.Duration, proposers)
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for p := range proposers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				t := time.Now()
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
				took[p] = append(took[p], time.Since(t))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "commits/s")
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

func BenchmarkCommit(b *testing.B) {
	body := strings.Repeat("x", 900)
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("bare/proposers=%d", n), func(b *testing.B) {
			r := bareRaft(b)
			data := []byte(body)
			load(b, n, func(int64) error { return r.Apply(data, 0).Error() })
		})
		for name, sealer := range map[string]logstore.Sealer{"store": nil, "sealed": seal.NewRing(seal.NewKey())} {
			b.Run(fmt.Sprintf("%s/proposers=%d", name, n), func(b *testing.B) {
				s := diskTrio(b, sealer)[0]
				load(b, n, func(i int64) error {
					_, err := s.Commit(b.Context(), "bench", table.Create(&swarmv1.Task{Id: fmt.Sprint(i), ServiceId: "s", Replaces: body}))
					return err
				})
			})
		}
	}
}

// BenchmarkForwardedThenVisible measures a write that a follower forwards, until it is visible on
// that follower and on the third member.
func BenchmarkForwardedThenVisible(b *testing.B) {
	ms := diskTrio(b, nil)
	load(b, 1, func(i int64) error {
		index, err := ms[1].Commit(b.Context(), "bench", table.Create(task(fmt.Sprint(i))))
		if err != nil {
			return err
		}
		if _, err := ms[1].WaitIndex(b.Context(), index); err != nil {
			return err
		}
		_, err = ms[2].WaitIndex(b.Context(), index)
		return err
	})
}

func BenchmarkCommitGroupsOf100(b *testing.B) {
	s := diskTrio(b, nil)[0]
	body := strings.Repeat("x", 200)
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("proposers=%d", n), func(b *testing.B) {
			var id atomic.Int64
			load(b, n, func(int64) error {
				g := &swarmv1.Group{}
				for range 100 {
					g.Changes = append(g.Changes, table.Create(&swarmv1.Task{Id: fmt.Sprintf("%d-%d-%d", n, b.N, id.Add(1)), ServiceId: "s", NodeId: "n", Replaces: body}))
				}
				_, res, err := s.CommitGroups(b.Context(), "bench", []*swarmv1.Group{g})
				if err == nil {
					err = res[0]
				}
				return err
			})
			b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "objects/s")
		})
	}
}

func tasks(n int) []proto.Message {
	out := make([]proto.Message, 0, n)
	for i := range n {
		out = append(out, &swarmv1.Task{
			Id: fmt.Sprintf("%025x", uint32(i)*2654435761), ServiceId: fmt.Sprintf("service%d", i%100), Slot: uint64(i), NodeId: fmt.Sprintf("node%d", i%1000), Revision: 1, DesiredState: 512,
		})
	}
	return out
}

func BenchmarkViewOf100k(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		objs := tasks(100_000)
		b.StartTimer()
		raftstoretest.View(objs...)
	}
}

func BenchmarkSnapshot100k(b *testing.B) {
	s := raftstoretest.New(b)
	var groups []*swarmv1.Group
	for _, t := range tasks(100_000) {
		groups = append(groups, table.Group(table.Create(t), table.Create(&swarmv1.TaskStatus{TaskId: t.(*swarmv1.Task).Id, State: 512})))
	}
	groups = append(groups, table.Group(table.Create(&swarmv1.Cluster{Id: "c"})))
	start := time.Now()
	if _, _, err := s.CommitGroups(b.Context(), "bench", groups); err != nil {
		b.Fatal(err)
	}
	inserted := time.Since(start)
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			_ = s.SaveSnapshot(io.Discard)
		}
		b.ReportMetric(200_000/inserted.Seconds(), "inserts/s")
	})
	var buf bytes.Buffer
	if err := s.SaveSnapshot(&buf); err != nil {
		b.Fatal(err)
	}
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if err := raftstore.Restore(raftstore.Config{NodeID: "x", Dir: b.TempDir()}, raftstore.Deps{}, bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}
