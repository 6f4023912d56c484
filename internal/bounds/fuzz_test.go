package bounds_test

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// eachString visits every text of a message at any depth, and reports fields that this build does
// not know.
func eachString(m protoreflect.Message, text func(name protoreflect.FullName, s string), unknown func(protoreflect.FullName)) {
	if len(m.GetUnknown()) > 0 {
		unknown(m.Descriptor().FullName())
	}
	one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.StringKind:
			text(f.FullName(), v.String())
		case protoreflect.MessageKind:
			eachString(v.Message(), text, unknown)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				one(f, v.List().Get(i))
			}
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				one(f.MapKey(), k.Value())
				one(f.MapValue(), v)
				return true
			})
		default:
			one(f, v)
		}
		return true
	})
}

func seed(f *testing.F, messages ...proto.Message) {
	f.Helper()
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzFromWorker passes arbitrary bytes of a worker through the checks, and checks their
// guarantees.
func FuzzFromWorker(f *testing.F) {
	digest := "sha256:" + strings.Repeat("a", 64)
	seed(f,
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{Addr: "192.0.2.1", Port: 1, Description: &swarmv1.NodeDescription{Hostname: "h\n", Routed: []string{"0.0.0.0/0", "10.1.0.0/16"}}}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: 1}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: &swarmv1.StatusReport{Sequence: 1, Updates: []*swarmv1.TaskStatus{{TaskId: "t1", State: 512, Message: "\x1b", PortStatus: []*swarmv1.PortConfig{{TargetPort: 80}}}}}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: &swarmv1.NodeDescription{
			Engine:        &swarmv1.EngineDescription{Labels: map[string]string{"a": "b"}, Plugins: []*swarmv1.PluginDescription{{Name: "p"}}},
			PortConflicts: []*swarmv1.PortConflict{{Port: 80, Protocol: "tcp", Reason: "r"}}, Resources: &swarmv1.Resources{NanoCpus: -1},
		}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: &swarmv1.ImageReport{Held: []string{digest, "no"}}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Volumes{Volumes: &swarmv1.VolumeReport{Held: []*swarmv1.Volume{{Name: "data", NodeId: "n", Driver: &swarmv1.Driver{Name: "l\n", Options: map[string]string{"o": "\x1b"}}}}}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}},
		&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Programmed{Programmed: &swarmv1.Programmed{Sequence: 1}}},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &swarmv1.FromWorker{}
		if m.UnmarshalVT(data) != nil { // less strict than gRPC: it accepts texts that are not UTF-8
			return
		}
		clean, _, err := bounds.FromWorker(m, "joined")
		if err != nil || clean == nil {
			return
		}
		eachString(clean.ProtoReflect(), func(name protoreflect.FullName, s string) {
			if !isClean(s, bounds.MaxText) {
				t.Errorf("%s is %.80q (%d bytes)", name, s, len(s))
			}
		}, func(name protoreflect.FullName) { t.Errorf("%s has unknown fields", name) })
		for _, d := range []*swarmv1.NodeDescription{clean.GetHello().GetDescription(), clean.GetDescription()} {
			if d != nil && (d.GetHostname() != "joined" || d.SizeVT() > bounds.MaxDescription) {
				t.Errorf("the description of %q has %d bytes", d.GetHostname(), d.SizeVT())
			}
		}
		for _, st := range clean.GetStatus().GetUpdates() {
			if _, known := swarmv1.TaskState_name[int32(st.GetState())]; !known || st.SizeVT() > bounds.MaxStatus || st.GetMeta() != nil || st.GetSessionEpoch() != 0 {
				t.Errorf("the status %v", st)
			}
		}
		for _, d := range clean.GetImages().GetHeld() {
			if !bounds.IsDigest(d) {
				t.Errorf("digest %q", d)
			}
		}
		if _, err := proto.Marshal(clean); err != nil {
			t.Errorf("it cannot be passed on: %v", err)
		}
	})
}

// FuzzAssignments passes arbitrary bytes of a manager through the checks. An accepted id must name
// a file directly inside a folder.
func FuzzAssignments(f *testing.F) {
	put := func(a *swarmv1.Assignment) proto.Message {
		return &swarmv1.Assignments{Sequence: 1, Changes: []*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Put{Put: a}}}}
	}
	seed(f,
		put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "../t", ServiceId: "s"}}}),
		put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "n", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.0.0/24"}}}}}}),
		put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n", Addr: "192.0.2.1"}}}),
		put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{TaskId: "t", ServiceId: "s", NodeId: "n"}}}),
		put(&swarmv1.Assignment{Object: &swarmv1.Assignment_DataVersion{DataVersion: &swarmv1.DataVersion{ObjectId: "x/y"}}}),
		&swarmv1.Assignments{Changes: []*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: 1, Id: "t"}}}}},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &swarmv1.Assignments{}
		if m.UnmarshalVT(data) != nil {
			return
		}
		clean, left := bounds.Assignments(m)
		if len(clean.GetChanges())+len(left) > len(m.GetChanges()) {
			t.Errorf("of %d changes %d are used and %d left out", len(m.GetChanges()), len(clean.GetChanges()), len(left))
		}
		for _, c := range clean.GetChanges() {
			a := c.GetPut()
			for _, id := range []string{
				a.GetTask().GetId(), a.GetTask().GetServiceId(), a.GetRevision().GetServiceId(), a.GetDataVersion().GetObjectId(), a.GetEndpoint().GetServiceId(),
				a.GetNetwork().GetId(), a.GetImage().GetId(), a.GetPeering().GetNodeId(), a.GetRouting().GetServiceId(), a.GetBackend().GetTaskId(), a.GetBackend().GetNodeId(),
			} {
				if id != "" && filepath.Join("/state", id) != "/state/"+id || strings.Contains(id, "/") || id == "." || id == ".." {
					t.Errorf("id %q leaves its folder", id)
				}
			}
		}
	})
}
