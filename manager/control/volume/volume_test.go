package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/transport"
	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// fakeNode has volumes whose content is one piece of text. It serves every node.
type fakeNode struct {
	swarmv1.UnimplementedNodeVolumesServer
	mu      sync.Mutex // guards what follows
	content map[string]string
	dropped []string
}

func (f *fakeNode) Make(_ context.Context, r *swarmv1.MakeVolumeRequest) (*swarmv1.MakeVolumeResponse, error) {
	v := r.GetVolume().CloneVT()
	v.NodeId, v.MakerId = "of another node", "evil" // what managers must not take over
	return &swarmv1.MakeVolumeResponse{Volume: v}, nil
}

func (f *fakeNode) Drop(_ context.Context, r *swarmv1.DropVolumeRequest) (*swarmv1.DropVolumeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, r.GetName())
	return &swarmv1.DropVolumeResponse{Reclaimed: 7}, nil
}

func (f *fakeNode) Export(r *swarmv1.ExportVolumeRequest, stream swarmv1.NodeVolumes_ExportServer) error {
	f.mu.Lock()
	text := f.content[r.GetName()]
	f.mu.Unlock()
	for _, part := range []string{text[:1], text[1:]} {
		if err := stream.Send(&swarmv1.VolumeChunk{Data: []byte(part)}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeNode) Import(stream swarmv1.NodeVolumes_ImportServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetStart().GetVolume().GetName() == "full" {
		return transport.ToStatus(errdefs.ErrResourceExhausted.WithMessage("the disk is full"))
	}
	var text []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		text = append(text, m.GetData()...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content[first.GetStart().GetVolume().GetName()] = string(text)
	return stream.SendAndClose(&swarmv1.MakeVolumeResponse{Volume: first.GetStart().GetVolume()})
}

type rig struct {
	*controltest.Rig
	volumes swarmv1.VolumesClient
	node    *fakeNode
}

func newRig(t *testing.T) *rig {
	r := &rig{node: &fakeNode{content: map[string]string{}}}
	conn := controltest.Serve(t, controltest.NodeInfo(controltest.Self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterNodeVolumesServer(s, r.node) },
		func(context.Context, string) error { return nil })
	r.Rig = controltest.New(t, func(d *control.Deps) {
		d.Conn = func(string) (grpc.ClientConnInterface, error) { return conn, nil }
	})
	r.volumes = swarmv1.NewVolumesClient(r.Dial(transport.AuthInfo{Local: &transport.LocalUser{}}))
	return r
}

// serve writes a service that mounts a volume, and returns its id.
func (r *rig) serve(name, volume string) string {
	r.Commit(table.Create(&swarmv1.Service{Id: name, Name: name, Revision: 1}), table.Create(&swarmv1.Revision{
		ServiceId: name, Number: 1, Spec: &swarmv1.ServiceSpec{Name: name, TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{
			Mounts: []*swarmv1.Mount{{Type: swarmv1.Mount_VOLUME, Source: volume, Target: "/d"}},
		}}},
	}))
	return name
}

func (r *rig) names() string {
	list, err := r.volumes.ListVolumes(r.T.Context(), &swarmv1.ListVolumesRequest{})
	if err != nil {
		r.T.Fatal(err)
	}
	var out []string
	for _, v := range list.GetVolumes() {
		out = append(out, v.GetVolume().GetName()+"@"+v.GetHostname())
	}
	return strings.Join(out, " ")
}

func (r *rig) refused(err error, says string) {
	r.T.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		r.T.Errorf("got %v, want %q in it", err, says)
	}
}

func TestVolumes_CreateAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.AddNode("a")
		r.AddNode("b")
		create := func(name, node string, options map[string]string) error {
			_, err := r.volumes.CreateVolume(t.Context(), &swarmv1.CreateVolumeRequest{Node: node, Volume: &swarmv1.Volume{
				Name: name, Driver: &swarmv1.Driver{Options: options}, Labels: map[string]string{"k": "v"},
			}})
			return err
		}
		remove := func(name, node string, force bool) error {
			_, err := r.volumes.RemoveVolume(t.Context(), &swarmv1.RemoveVolumeRequest{Name: name, Node: node, Force: force})
			return err
		}
		nfs := map[string]string{"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1,password=secret"}
		r.refused(create("data", "", nil), "name it with --node")
		r.refused(create("a/b", "a", nil), "is not valid")
		if err := errors.Join(create("data", "a", nil), create("data", "a", nil), create("data", "b", nil), create("share", "", nfs)); err != nil {
			t.Fatal(err)
		}
		r.refused(create("share", "a", nil), "on a file server for all nodes")
		r.refused(create("data", "", nfs), "exists already on a")
		if got, want := r.names(), "data@a data@b share@"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		row, _ := r.Store.View().Volumes.Get(table.VolumeKey(a, "data"))
		if !row.GetAccepted() || !row.GetReported() || row.GetMakerId() != "" || row.GetLabels()["k"] != "v" {
			t.Errorf("row %v", row)
		}
		shared, err := r.volumes.ListVolumes(t.Context(), &swarmv1.ListVolumesRequest{Filter: &swarmv1.Filter{Names: []string{"share"}}})
		if err != nil || strings.Contains(shared.String(), "secret") {
			t.Errorf("the list has a password: %v, %v", shared, err)
		}

		r.refused(remove("data", "", false), "on several nodes, a, b: name one with --node")
		r.refused(remove("nosuch", "", false), "no volume nosuch")
		r.serve("db", "data")
		r.AddTask("db", a, 1)
		r.refused(remove("data", "a", true), "in use by task db.1 on a")
		if err := errors.Join(remove("data", "b", false), remove("share", "", false)); err != nil {
			t.Fatal(err)
		}
		if got := r.names(); got != "data@a" || !slices.Contains(r.node.dropped, "data") {
			t.Errorf("left %s, dropped %v", got, r.node.dropped)
		}
	})
}

func TestVolumes_AVolumeThatTasksAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := r.AddNode("b")
		r.serve("db", "data")
		r.Commit(
			table.Create(&swarmv1.Volume{NodeId: b, Name: "data", Reported: true, MakerId: "db", Uses: []*swarmv1.VolumeUse{{ServiceId: "db", Slot: 2}}}),
			table.Create(&swarmv1.Task{Id: "waits", ServiceId: "db", Slot: 2, Revision: 1, DesiredState: swarmv1.TaskState_RUNNING}),
			table.Create(&swarmv1.TaskStatus{TaskId: "waits", State: swarmv1.TaskState_PENDING}),
		)
		_, err := r.volumes.RemoveVolume(t.Context(), &swarmv1.RemoveVolumeRequest{Name: "data"})
		r.refused(err, "task db.2 waits for volume data on b: with --force")
		pruned, err := r.volumes.PruneVolumes(t.Context(), &swarmv1.PruneVolumesRequest{})
		if err != nil || len(pruned.GetRemoved()) > 0 {
			t.Errorf("pruned %v, %v", pruned, err)
		}
		st, _ := r.Store.View().NodeStates.Get(b)
		st = st.CloneVT()
		st.State = swarmv1.NodeState_DOWN
		r.Commit(table.Update(st))
		if _, err := r.volumes.RemoveVolume(t.Context(), &swarmv1.RemoveVolumeRequest{Name: "data", Force: true}); err != nil {
			t.Fatal(err)
		}
		if got := r.names(); got != "" || len(r.node.dropped) > 0 {
			t.Errorf("left %s, dropped %v", got, r.node.dropped)
		}
	})
}

func TestVolumes_Prune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.AddNode("a")
		r.serve("web", "mounted")
		for _, v := range []*swarmv1.Volume{
			{Name: "mounted"}, {Name: "made", MakerId: "web"}, {Name: "free", Labels: map[string]string{"k": "v"}}, {Name: "gone", MakerId: "removed"},
		} {
			v.NodeId, v.Reported = a, true
			r.Commit(table.Create(v))
		}
		prune := func(filter *swarmv1.Filter) (names []string) {
			out, err := r.volumes.PruneVolumes(t.Context(), &swarmv1.PruneVolumesRequest{Filter: filter})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range out.GetRemoved() {
				names = append(names, p.GetName())
			}
			return names
		}
		if got := prune(&swarmv1.Filter{Labels: []string{"k=v"}}); !slices.Equal(got, []string{"free"}) {
			t.Errorf("with a label: %v", got)
		}
		if got := prune(nil); !slices.Equal(got, []string{"gone"}) {
			t.Errorf("pruned %v", got)
		}
		if got := r.names(); got != "made@a mounted@a" {
			t.Errorf("left %s", got)
		}
	})
}

func TestVolumes_Archives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.AddNode("a")
		r.AddNode("b")
		r.node.content["data"] = "archive"
		r.Commit(table.Create(&swarmv1.Volume{NodeId: a, Name: "data", Reported: true}))
		backup, err := r.volumes.BackupVolume(t.Context(), &swarmv1.BackupVolumeRequest{Name: "data"})
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		for {
			m, err := backup.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text.Write(m.GetData())
		}
		if text.String() != "archive" {
			t.Errorf("got %q", text.String())
		}
		if err := r.restore("copy", "b", text.Bytes()); err != nil || r.node.content["copy"] != "archive" {
			t.Errorf("restored %q, %v", r.node.content["copy"], err)
		}
		r.refused(r.restore("full", "b", text.Bytes()), "the disk is full")
		r.refused(r.restore("copy", "", nil), "name it with --node")
		clone, err := r.volumes.CloneVolume(t.Context(), &swarmv1.CloneVolumeRequest{
			Source: &swarmv1.BackupVolumeRequest{Name: "data"}, Target: &swarmv1.RestoreVolumeStart{Volume: &swarmv1.Volume{Name: "data"}, Node: "b"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := clone.Recv(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if got := r.names(); got != "copy@b data@a data@b" {
			t.Errorf("volumes %s", got)
		}
	})
}

func (r *rig) restore(name, node string, data []byte) error {
	stream, err := r.volumes.RestoreVolume(r.T.Context())
	if err != nil {
		return err
	}
	start := &swarmv1.RestoreVolumeStart{Volume: &swarmv1.Volume{Name: name}, Node: node}
	// An error of Send means that the call has ended: the answer says why.
	if stream.Send(&swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Start{Start: start}}) == nil {
		_ = stream.Send(&swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Data{Data: data}})
	}
	_, err = stream.CloseAndRecv()
	return err
}
