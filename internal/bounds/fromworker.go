package bounds

import (
	"fmt"
	"net/netip"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxUpdates is the most statuses in one report.
	MaxUpdates = 2000
	// MaxStatus is the largest status that FromWorker returns, in bytes.
	MaxStatus = 64 << 10
	// MaxReport limits a report of statuses or images, in bytes. A worker with more statuses makes
	// several reports.
	MaxReport = 320 << 10
	// MaxHeld is the most images of one node that the managers store. Other nodes cannot fetch
	// further images from that node.
	MaxHeld = 4096

	// MaxVolumes is the most volumes of one node that the managers store. Further volumes of the
	// node are on no list.
	MaxVolumes = 1024

	maxOption    = 1 << 10 // the length of an option of a volume's driver
	maxPorts     = 256     // the number of ports of one task
	maxAddresses = 32      // the number of addresses of one task
	maxContainer = 128     // the length of a container id
	maxMachine   = 128     // the length of a machine id
	maxDigest    = 7 + 128
	digestExtra  = 3 // the encoding overhead of a digest in a report
)

// FromWorker returns the part of a message in a session of a worker that may be used. hostname is
// the name with which the node joined. dropped describes for the log what was dropped; if clean is
// nil, the whole message was dropped. An error (errdefs.ErrInvalidArgument) means that the worker
// breaks the protocol and that its session must end.
func FromWorker(m *swarmv1.FromWorker, hostname string) (clean *swarmv1.FromWorker, dropped string, err error) {
	switch m := m.GetMessage().(type) {
	case *swarmv1.FromWorker_Hello:
		hello, dropped := Hello(m.Hello, hostname)
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: hello}}, dropped, nil
	case *swarmv1.FromWorker_Heartbeat:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: m.Heartbeat.GetSequence()}}}, "", nil
	case *swarmv1.FromWorker_Programmed:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Programmed{Programmed: &swarmv1.Programmed{Sequence: m.Programmed.GetSequence()}}}, "", nil
	case *swarmv1.FromWorker_Departure:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}}, "", nil
	case *swarmv1.FromWorker_Status:
		report, dropped, err := Report(m.Status)
		if err != nil {
			return nil, "", err
		}
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: report}}, dropped, nil
	case *swarmv1.FromWorker_Description:
		if size := m.Description.SizeVT(); size > maxRawDescription {
			return nil, fmt.Sprintf("a description of %d bytes", size), nil
		}
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: Description(m.Description, hostname)}}, "", nil
	case *swarmv1.FromWorker_Volumes:
		held, dropped := Volumes(m.Volumes)
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Volumes{Volumes: held}}, dropped, nil
	case *swarmv1.FromWorker_Images:
		held, dropped := Images(m.Images)
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: held}}, dropped, nil
	}
	return nil, "a message of an unknown kind", nil
}

// Hello returns the part of a hello message that may be used. Its description is nil if the message
// has none or if it is too large.
func Hello(h *swarmv1.Hello, hostname string) (clean *swarmv1.Hello, dropped string) {
	clean = &swarmv1.Hello{
		MachineId: Text(h.GetMachineId(), maxMachine), SeenIndex: h.GetSeenIndex(), Epoch: h.GetEpoch(),
	}
	if isHost(h.GetAddr()) && isPort(h.GetPort()) {
		clean.Addr, clean.Port = h.GetAddr(), h.GetPort()
		if isHost(h.GetDataPathAddr()) {
			clean.DataPathAddr = h.GetDataPathAddr()
		}
	}
	switch size := h.GetDescription().SizeVT(); {
	case size > maxRawDescription:
		dropped = fmt.Sprintf("a description of %d bytes", size)
	case h.GetDescription() != nil:
		clean.Description = Description(h.GetDescription(), hostname)
	}
	return clean, dropped
}

// Report returns the statuses of a report that may be stored, each of at most MaxStatus bytes. It
// returns an error if the report is too large.
func Report(r *swarmv1.StatusReport) (clean *swarmv1.StatusReport, dropped string, err error) {
	if n := len(r.GetUpdates()); n > MaxUpdates {
		return nil, "", invalid("a report has %d statuses, at most %d are allowed", n, MaxUpdates)
	}
	if size := r.SizeVT(); size > MaxReport {
		return nil, "", invalid("a report has %d bytes, at most %d are allowed", size, MaxReport)
	}
	clean = &swarmv1.StatusReport{Sequence: r.GetSequence()}
	for _, st := range r.GetUpdates() {
		good, why := Status(st)
		if good == nil {
			dropped = why
			continue
		}
		clean.Updates = append(clean.Updates, good)
	}
	return clean, dropped, nil
}

// Status returns the part of the status of a task that may be stored. It returns nil and a reason
// if the status has no valid task id, or a state that workers do not report. The receiver sets
// meta, session and sequence.
func Status(st *swarmv1.TaskStatus) (clean *swarmv1.TaskStatus, why string) {
	if !ident.IsKey(st.GetTaskId()) {
		return nil, "a status without a valid task id"
	}
	if !reported(st.GetState()) {
		return nil, fmt.Sprintf("a status of state %d", st.GetState())
	}
	clean = &swarmv1.TaskStatus{
		TaskId: st.GetTaskId(), State: st.GetState(), Timestamp: instant(st.GetTimestamp()), RunningSince: instant(st.GetRunningSince()),
		Message: Text(st.GetMessage(), MaxText), Err: Text(st.GetErr(), MaxText), RefusedRevision: st.GetRefusedRevision(), AppliedRevision: st.GetAppliedRevision(),
		Ready:      st.GetReady() && st.GetState() == swarmv1.TaskState_RUNNING,
		PortStatus: pick(st.GetPortStatus(), maxPorts, port),
		Addresses: pick(st.GetAddresses(), maxAddresses, func(s string) (string, bool) {
			_, err := netip.ParsePrefix(s)
			return s, err == nil || isAddr(s)
		}),
	}
	if c := st.GetContainerStatus(); c != nil {
		clean.ContainerStatus = &swarmv1.ContainerStatus{
			ContainerId: Text(c.GetContainerId(), maxContainer), Pid: c.GetPid(), ExitCode: c.GetExitCode(),
			OomKilled: c.GetOomKilled(), ExitCodeUnknown: c.GetExitCodeUnknown(),
		}
	}
	return clean, ""
}

// reported reports whether workers report a state. Only the planner writes the lower and the higher
// states.
func reported(s swarmv1.TaskState) bool {
	_, known := swarmv1.TaskState_name[int32(s)]
	return known && s >= swarmv1.TaskState_ASSIGNED && s <= swarmv1.TaskState_REJECTED
}

// instant returns a copy of a timestamp, or nil if it is not a valid time.
func instant(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t == nil || t.CheckValid() != nil {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: t.GetSeconds(), Nanos: t.GetNanos()}
}

// port checks a port that a node publishes for one of its tasks.
func port(p *swarmv1.PortConfig) (*swarmv1.PortConfig, bool) {
	_, known := swarmv1.PortConfig_Protocol_name[int32(p.GetProtocol())]
	ok := known && !publish.ByMesh(p) && isPort(p.GetTargetPort()) && isPort(p.GetPublishedPort()) &&
		(p.GetHostIp() == "" || isAddr(p.GetHostIp()))
	if !ok {
		return nil, false
	}
	return &swarmv1.PortConfig{
		Name: Text(p.GetName(), ident.MaxName), Protocol: p.GetProtocol(), TargetPort: p.GetTargetPort(), PublishedPort: p.GetPublishedPort(),
		PublishMode: p.GetPublishMode(), HostIp: p.GetHostIp(),
	}, true
}

// Images returns the first MaxHeld valid digests of a report, without duplicates, as long as they
// fit into MaxReport.
func Images(r *swarmv1.ImageReport) (clean *swarmv1.ImageReport, dropped string) {
	seen := make(map[string]bool, min(len(r.GetHeld()), MaxHeld))
	size := 0
	clean = &swarmv1.ImageReport{Held: pick(r.GetHeld(), MaxHeld, func(s string) (string, bool) {
		ok := IsDigest(s) && !seen[s] && size+len(s)+digestExtra <= MaxReport
		if ok {
			seen[s] = true
			size += len(s) + digestExtra
		}
		return s, ok
	})}
	if n := len(r.GetHeld()) - len(clean.Held); n > 0 {
		dropped = fmt.Sprintf("%d of %d image digests", n, len(r.GetHeld()))
	}
	return clean, dropped
}

// IsDigest reports whether s is a valid digest of content.
func IsDigest(s string) bool {
	return len(s) <= maxDigest && digest.Digest(s).Validate() == nil
}

// Digests returns the valid digests among the first limit entries of in.
func Digests(in []string, limit int) []string {
	return pick(in[:min(len(in), limit)], limit, func(s string) (string, bool) { return s, IsDigest(s) })
}

// Volumes returns the first MaxVolumes valid volumes of a report, each name once, as long as they
// fit into MaxReport. They have what a node may say of its volumes.
func Volumes(r *swarmv1.VolumeReport) (clean *swarmv1.VolumeReport, dropped string) {
	seen := make(map[string]bool, min(len(r.GetHeld()), MaxVolumes))
	left := MaxReport
	clean = &swarmv1.VolumeReport{Held: pick(r.GetHeld(), MaxVolumes, fits(&left, func(v *swarmv1.Volume) (*swarmv1.Volume, bool) {
		ok := !seen[v.GetName()] && ident.CheckVolumeName(v.GetName()) == nil
		seen[v.GetName()] = true
		return Volume(v), ok
	}))}
	if n := len(r.GetHeld()) - len(clean.Held); n > 0 {
		dropped = fmt.Sprintf("%d of %d volumes", n, len(r.GetHeld()))
	}
	return clean, dropped
}

// Volume returns what a node may say of a volume whose name has been checked.
func Volume(v *swarmv1.Volume) *swarmv1.Volume {
	out := &swarmv1.Volume{
		Name: Text(v.GetName(), ident.MaxVolumeName), Labels: labels(v.GetLabels()), CreatedAt: instant(v.GetCreatedAt()),
		Size: max(v.GetSize(), 0), MeasuredAt: instant(v.GetMeasuredAt()), Mountpoint: Text(v.GetMountpoint(), maxPath),
	}
	if d := v.GetDriver(); d != nil {
		out.Driver = &swarmv1.Driver{Name: Text(d.GetName(), maxWord)}
		for _, key := range []string{"type", "device", "o"} {
			if value, ok := d.GetOptions()[key]; ok {
				if out.Driver.Options == nil {
					out.Driver.Options = map[string]string{}
				}
				out.Driver.Options[key] = Text(value, maxOption)
			}
		}
	}
	return out
}
