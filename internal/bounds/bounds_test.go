package bounds_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"plain text, 100 %", 64, "plain text, 100 %"},
		{"", 64, ""},
		{"über 10 µs", 64, "über 10 µs"},
		{"two\nlines\r\nand\ta tab", 64, "two lines  and a tab"},
		{"\x1b[2Jcleared\x07", 64, "\uFFFD[2Jcleared\uFFFD"},
		{"right\u202eleft", 64, "right\uFFFDleft"},
		{"line\u2028separator", 64, "line\uFFFDseparator"},
		{"not \xff\xfe UTF-8", 64, "not \uFFFD\uFFFD UTF-8"},
		{strings.Repeat("x", 20), 10, strings.Repeat("x", 7) + "…"},
		{strings.Repeat("ü", 20), 10, "üüü…"},
		{strings.Repeat("x", 10), 10, strings.Repeat("x", 10)},
		{"long", 2, ""},
	} {
		if got := bounds.Text(c.in, c.limit); got != c.want {
			t.Errorf("Text(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestDescription(t *testing.T) {
	honest := &swarmv1.NodeDescription{
		Hostname: "joined", Platform: &swarmv1.Platform{Os: "linux", Architecture: "x86_64"},
		Resources: &swarmv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30, Generic: []*swarmv1.GenericResource{{Kind: "gpu", Value: 2}}},
		Engine: &swarmv1.EngineDescription{
			EngineVersion: "1.0", Labels: map[string]string{"tier": "web"}, Builds: []*swarmv1.RunningBuild{{Part: "daemon", Build: "abc"}},
		},
		Unavailable: "its disk is full: 2 % are free", Routed: []string{"192.168.0.0/16", "10.1.0.0/16", "fd00:1::/32"},
		PortConflicts: []*swarmv1.PortConflict{{Port: 80, Protocol: "tcp", Reason: "nginx has it", Address: "10.0.0.1"}},
	}
	if diff := cmp.Diff(honest, bounds.Description(honest, "joined"), protocmp.Transform()); diff != "" {
		t.Errorf("an honest description is changed (-want +got):\n%s", diff)
	}

	hostile := &swarmv1.NodeDescription{
		Hostname: "vault\nforged", Resources: &swarmv1.Resources{NanoCpus: math.MaxInt64, MemoryBytes: math.MinInt64},
		Routed: []string{"0.0.0.0/0", "0.0.0.0/1", "::/0", "fd00::/8", "10.1.2.3/16", "10.1.0.0/16", "nonsense", "10.0.0.0/99"},
		PortConflicts: []*swarmv1.PortConflict{
			{Port: 0, Protocol: "tcp"},
			{Port: 70000, Protocol: "tcp"},
			{Port: 80, Protocol: "icmp"},
			{Port: 80, Protocol: "tcp", Kind: 99},
			{Port: 80, Protocol: "tcp", Address: "here"},
		},
		Engine: &swarmv1.EngineDescription{Labels: map[string]string{"": "empty", "a\nb": "forged", "good": "\x1b[0m"}},
	}
	want := &swarmv1.NodeDescription{
		Hostname: "joined", Resources: &swarmv1.Resources{NanoCpus: 65536e9}, Routed: []string{"10.1.0.0/16"},
		Engine: &swarmv1.EngineDescription{Labels: map[string]string{"good": "\uFFFD[0m"}},
	}
	if diff := cmp.Diff(want, bounds.Description(hostile, "joined"), protocmp.Transform()); diff != "" {
		t.Errorf("a hostile description (-want +got):\n%s", diff)
	}
}

// A description of the largest allowed size has at most MaxDescription bytes, and unknown fields do
// not pass.
func TestDescription_IsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	d := &swarmv1.NodeDescription{
		Unavailable: long, Platform: &swarmv1.Platform{Os: long, Architecture: long, Variant: long}, Resources: &swarmv1.Resources{},
		Engine:  &swarmv1.EngineDescription{EngineVersion: long, KernelVersion: long, RuntimeVersion: long, Build: long, Labels: map[string]string{}},
		TlsInfo: &swarmv1.TLSInfo{TrustRoot: []byte(long[:4096]), CertIssuerSubject: []byte(long[:4096]), CertIssuerPublicKey: []byte(long[:4096])},
	}
	for i := range 1000 {
		d.Routed = append(d.Routed, fmt.Sprintf("2001:db8:%x:ffff:ffff:ffff:ffff:0/112", i))
		d.PortConflicts = append(d.PortConflicts, &swarmv1.PortConflict{Port: 65535, Protocol: "sctp", Reason: long, Address: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Kind: 2})
		d.Resources.Generic = append(d.Resources.Generic, &swarmv1.GenericResource{Kind: long, Named: long, Value: math.MaxInt64})
		d.Engine.Labels[fmt.Sprintf("%0128d", i)] = long
		d.Engine.Plugins = append(d.Engine.Plugins, &swarmv1.PluginDescription{Type: long, Name: long})
		d.Engine.Builds = append(d.Engine.Builds, &swarmv1.RunningBuild{Part: long, Build: long})
	}
	d.ProtoReflect().SetUnknown([]byte(strings.Repeat("\xf8\x3f\x01", 1<<16)))
	got := bounds.Description(d, long)
	if n := got.SizeVT(); n > bounds.MaxDescription {
		t.Errorf("a description has %d bytes, at most %d are promised", n, bounds.MaxDescription)
	}
	if len(got.ProtoReflect().GetUnknown()) > 0 {
		t.Error("unknown fields pass")
	}
	if again := bounds.Description(got, got.GetHostname()); !proto.Equal(again, got) {
		t.Error("what has passed does not pass unchanged a second time")
	}
}

func TestStatus(t *testing.T) {
	now := timestamppb.New(time.Unix(1e9, 0))
	honest := &swarmv1.TaskStatus{
		TaskId: "t1", State: swarmv1.TaskState_RUNNING, Ready: true, Timestamp: now, RunningSince: now, Message: "started",
		ContainerStatus: &swarmv1.ContainerStatus{ContainerId: "t1", Pid: 12}, Addresses: []string{"172.18.0.2/16"},
		PortStatus: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 30001, PublishMode: swarmv1.PortConfig_HOST}},
	}
	got, why := bounds.Status(honest)
	if diff := cmp.Diff(honest, got, protocmp.Transform()); diff != "" || why != "" {
		t.Errorf("an honest status is changed, because of %q (-want +got):\n%s", why, diff)
	}
	for name, st := range map[string]*swarmv1.TaskStatus{
		"no task":                  {State: swarmv1.TaskState_RUNNING},
		"a path":                   {TaskId: "../t1", State: swarmv1.TaskState_RUNNING},
		"an unknown state":         {TaskId: "t1", State: 999},
		"the planner's first":      {TaskId: "t1", State: swarmv1.TaskState_PENDING},
		"desired only":             {TaskId: "t1", State: swarmv1.TaskState_REMOVE},
		"the leader's, of no node": {TaskId: "t1", State: swarmv1.TaskState_ORPHANED},
	} {
		if got, why := bounds.Status(st); got != nil || why == "" {
			t.Errorf("%s: got %v, %q, want nothing and a reason", name, got, why)
		}
	}
	hostile := &swarmv1.TaskStatus{
		TaskId: "t1", State: swarmv1.TaskState_STARTING, Ready: true, Timestamp: &timestamppb.Timestamp{Seconds: math.MaxInt64},
		Message: "\x1b[2J", Addresses: []string{"here", "10.0.0.1"}, SessionEpoch: 99, Sequence: 99, Meta: &swarmv1.Meta{Version: 7},
		Unplaced: &swarmv1.Unplaced{Nearest: "forged"},
		PortStatus: []*swarmv1.PortConfig{
			{TargetPort: 80, PublishedPort: 80, PublishMode: swarmv1.PortConfig_INGRESS}, {TargetPort: 1 << 20, PublishMode: swarmv1.PortConfig_HOST},
		},
	}
	want := &swarmv1.TaskStatus{TaskId: "t1", State: swarmv1.TaskState_STARTING, Message: "\uFFFD[2J", Addresses: []string{"10.0.0.1"}}
	got, _ = bounds.Status(hostile)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("a hostile status (-want +got):\n%s", diff)
	}
}

func TestImages(t *testing.T) {
	good := "sha256:" + strings.Repeat("a", 64)
	got, left := bounds.Images(&swarmv1.ImageReport{Held: []string{good, "sha256:short", good, "", "md5:" + strings.Repeat("a", 32), "sha256:" + strings.Repeat("A", 64), good + "/.."}})
	if !slices.Equal(got.GetHeld(), []string{good}) || left == "" {
		t.Errorf("got %q, %q, want the one valid digest, and that others were left out", got.GetHeld(), left)
	}
	many := &swarmv1.ImageReport{}
	for i := range bounds.MaxHeld + 10 {
		many.Held = append(many.Held, fmt.Sprintf("sha256:%064x", i))
	}
	if got, _ := bounds.Images(many); len(got.GetHeld()) != bounds.MaxHeld {
		t.Errorf("%d images are held, want %d", len(got.GetHeld()), bounds.MaxHeld)
	}
}

func TestVolumes(t *testing.T) {
	got, left := bounds.Volumes(&swarmv1.VolumeReport{Held: []*swarmv1.Volume{
		{Name: "data", NodeId: "other", MakerId: "s1", Accepted: true, Size: -1, Driver: &swarmv1.Driver{Name: "local", Options: map[string]string{"type": "nfs", "x": "y"}}},
		{Name: "data"},
		{Name: "a/b"},
		{Name: ""},
	}})
	want := &swarmv1.VolumeReport{Held: []*swarmv1.Volume{{Name: "data", Driver: &swarmv1.Driver{Name: "local", Options: map[string]string{"type": "nfs"}}}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || left == "" {
		t.Errorf("left out %q, -want +got:\n%s", left, diff)
	}
	many := &swarmv1.VolumeReport{}
	for i := range bounds.MaxVolumes + 10 {
		many.Held = append(many.Held, &swarmv1.Volume{Name: fmt.Sprint("v", i)})
	}
	if got, _ := bounds.Volumes(many); len(got.GetHeld()) != bounds.MaxVolumes {
		t.Errorf("%d volumes are held, want %d", len(got.GetHeld()), bounds.MaxVolumes)
	}
}

func TestFromWorker_ProtocolErrors(t *testing.T) {
	tooMany := &swarmv1.StatusReport{Updates: make([]*swarmv1.TaskStatus, bounds.MaxUpdates+1)}
	tooLarge := &swarmv1.StatusReport{Updates: []*swarmv1.TaskStatus{{Message: strings.Repeat("x", bounds.MaxReport)}}}
	for name, r := range map[string]*swarmv1.StatusReport{"too many": tooMany, "too large": tooLarge} {
		if _, _, err := bounds.FromWorker(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: r}}, "h"); err == nil {
			t.Errorf("%s: want an error that ends the session", name)
		}
	}
	large := &swarmv1.NodeDescription{Unavailable: strings.Repeat("x", 1<<20)}
	clean, left, err := bounds.FromWorker(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: large}}, "h")
	if clean != nil || left == "" || err != nil {
		t.Errorf("a description of 1 MiB: got %v, %q, %v, want it dropped with a reason", clean, left, err)
	}
	if clean, left, err := bounds.FromWorker(&swarmv1.FromWorker{}, "h"); clean != nil || left == "" || err != nil {
		t.Errorf("a message without content: got %v, %q, %v, want it dropped with a reason", clean, left, err)
	}
}

func TestAssignments(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	good := []*swarmv1.Assignment{
		{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "t1", ServiceId: "s1", DesiredState: swarmv1.TaskState_RUNNING, Networks: []*swarmv1.NetworkAttachment{{NetworkId: "n", Addresses: []string{"10.0.0.2/24"}}}}}},
		{Object: &swarmv1.Assignment_Revision{Revision: &swarmv1.Revision{ServiceId: "s1"}}},
		{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "n", Vni: 65536, Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.0.0/24", Gateway: "10.0.0.1"}}}}}},
		{Object: &swarmv1.Assignment_Image{Image: &swarmv1.Image{Id: "i", Name: "a:1", Digest: digest}}},
		{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n1", Addr: "192.0.2.1", MeshAddresses: []string{"10.0.0.3/24"}}}},
		{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "s1", Name: "web"}}},
		{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{TaskId: "t1", ServiceId: "s1", NodeId: "n1"}}},
	}
	bad := []*swarmv1.Assignment{
		{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "../../etc", ServiceId: "s1"}}},
		{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "t1", ServiceId: "s1", DesiredState: 999}}},
		{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "t1", ServiceId: "s1", Networks: []*swarmv1.NetworkAttachment{{NetworkId: "n", Addresses: []string{"10.0.0.2"}}}}}},
		{Object: &swarmv1.Assignment_Task{}},
		{Object: &swarmv1.Assignment_DataVersion{DataVersion: &swarmv1.DataVersion{ObjectId: "a/b"}}},
		{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: ".."}}},
		{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "n", Vni: 1 << 24}}},
		{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "n", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "all"}}}}}},
		{Object: &swarmv1.Assignment_Image{Image: &swarmv1.Image{Id: "i", Digest: "sha256:../x"}}},
		{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n1", Addr: "0.0.0.0"}}},
		{Object: &swarmv1.Assignment_Endpoint{Endpoint: &swarmv1.Endpoint{ServiceId: "s1", Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 1 << 17}}}}},
		{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{TaskId: "t1", ServiceId: "s1"}}},
	}
	in := &swarmv1.Assignments{Sequence: 3, Index: 7, Complete: true}
	for _, a := range slices.Concat(good, bad) {
		in.Changes = append(in.Changes, &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: a}})
	}
	got, left := bounds.Assignments(in)
	if len(got.GetChanges()) != len(good) || len(left) != len(bad) {
		t.Errorf("%d assignments are used and %d left out, want %d and %d; left out: %q", len(got.GetChanges()), len(left), len(good), len(bad), left)
	}
	for i, c := range got.GetChanges() {
		if i < len(good) && c.GetPut() != good[i] {
			t.Errorf("assignment %d is %v, want %v", i, c.GetPut(), good[i])
		}
	}
}

func TestPeers(t *testing.T) {
	got := bounds.Peers([]*swarmv1.Peer{
		{NodeId: "n1", Addr: "192.0.2.1", Port: 2377},
		{NodeId: "n2", Addr: "manager.example", Port: 2377},
		{NodeId: "n3", Addr: "fd00::1", Port: 1},
		{NodeId: "", Addr: "192.0.2.1", Port: 2377},
		{NodeId: "n4", Addr: "", Port: 2377},
		{NodeId: "n5", Addr: "192.0.2.1"},
		{NodeId: "n6", Addr: "0.0.0.0", Port: 2377},
		{NodeId: "n7", Addr: "a b", Port: 2377},
		{NodeId: "n8", Addr: "192.0.2.1", Port: 65536},
	})
	if len(got) != 3 || got[2].GetNodeId() != "n3" {
		t.Errorf("got %v, want the first three", got)
	}
}

func TestHeartbeat(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		0: time.Second, -1: time.Second, 1: 100 * time.Millisecond, time.Second * 2: 2 * time.Second, time.Hour: time.Minute,
	} {
		if got := bounds.Heartbeat(in, time.Second); got != want {
			t.Errorf("Heartbeat(%v) = %v, want %v", in, got, want)
		}
	}
}

func TestLogRecords(t *testing.T) {
	record := func(task string, stream swarmv1.LogRecord_Stream, data string) *swarmv1.LogRecord {
		return &swarmv1.LogRecord{TaskId: task, Stream: stream, Data: []byte(data), NodeId: "forged", ServiceId: "forged", Slot: 9, Offset: 4}
	}
	got := bounds.LogRecords(&swarmv1.TaskLogsResponse{
		Records: []*swarmv1.LogRecord{
			record("t1", swarmv1.LogRecord_STDOUT, "good"), record("t2", swarmv1.LogRecord_STDOUT, "another's"), record("t1", 7, "nowhere"),
			record("t1", swarmv1.LogRecord_STDERR, strings.Repeat("x", bounds.MaxRecord+1)),
		},
		Details: []*swarmv1.LogDetails{{TaskId: "t1", Details: map[string]string{"k": "v\n"}}, {TaskId: "t2"}},
		Notices: []string{"forged"},
	}, []string{"t1"}, func(string) *swarmv1.LogRecord { return &swarmv1.LogRecord{NodeId: "n1", ServiceId: "s1", Slot: 2} })
	want := &swarmv1.TaskLogsResponse{
		Records: []*swarmv1.LogRecord{{TaskId: "t1", Stream: swarmv1.LogRecord_STDOUT, Data: []byte("good"), NodeId: "n1", ServiceId: "s1", Slot: 2, Offset: 4}},
		Details: []*swarmv1.LogDetails{{TaskId: "t1", Details: map[string]string{"k": "v "}}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// isClean reports whether a text is as Text returns it.
func isClean(s string, limit int) bool {
	return len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) && r != utf8.RuneError })
}

// The disk usage of one node leaves room for that of all other nodes, however much its texts grow.
func TestDiskUsage_IsBoundedInBytes(t *testing.T) {
	u, labels := &swarmv1.DiskUsageResponse{}, map[string]string{}
	for i := range 64 {
		labels[fmt.Sprintf("%02d", i)] = strings.Repeat("\x01", 85)
	}
	for i := range 2000 {
		u.Images = append(u.Images, &swarmv1.HeldImage{Image: &swarmv1.Image{Digest: fmt.Sprintf("sha256:%064x", i)}, Labels: labels})
		u.Volumes = append(u.Volumes, &swarmv1.HeldVolume{Name: strings.Repeat("v", 200)})
	}
	got := bounds.DiskUsage(u)
	if n := got.SizeVT(); n > 300<<10 || len(got.GetImages()) == 0 {
		t.Errorf("the account has %d bytes and %d images, want at most 256 KiB", n, len(got.GetImages()))
	}
}
