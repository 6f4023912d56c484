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
	// MaxUpdates is how many statuses one report may have.
	MaxUpdates = 2000
	// MaxStatus is the largest status that FromWorker returns, in bytes.
	MaxStatus = 64 << 10
	// MaxReport bounds a report of statuses or of images, in bytes. A worker that has more statuses makes several reports.
	MaxReport = 320 << 10
	// MaxHeld is how many images of a node the managers remember. What a node holds beyond them, other nodes do not fetch
	// from it.
	MaxHeld = 4096

	maxPorts     = 256 // of one task
	maxAddresses = 32  // of one task
	maxContainer = 128 // a container's id
	maxMachine   = 128 // a machine's id
	maxDigest    = 7 + 128
	digestExtra  = 3 // of a digest in a report
)

// FromWorker returns what may be used of a message of a worker's session; hostname is the one that the node joined with.
// left says in a few words what was left out of the message, for the log; all of it when the message returned is nil. An
// error (ErrInvalidArgument) means that the worker does not keep to the protocol: its session must end.
func FromWorker(m *swarmv1.FromWorker, hostname string) (clean *swarmv1.FromWorker, left string, err error) {
	switch m := m.GetMessage().(type) {
	case *swarmv1.FromWorker_Hello:
		hello, left := Hello(m.Hello, hostname)
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: hello}}, left, nil
	case *swarmv1.FromWorker_Heartbeat:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: m.Heartbeat.GetSequence()}}}, "", nil
	case *swarmv1.FromWorker_InForce:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_InForce{InForce: &swarmv1.AssignmentsAck{Sequence: m.InForce.GetSequence()}}}, "", nil
	case *swarmv1.FromWorker_Departure:
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}}, "", nil
	case *swarmv1.FromWorker_Status:
		report, left, err := Report(m.Status)
		if err != nil {
			return nil, "", err
		}
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: report}}, left, nil
	case *swarmv1.FromWorker_Description:
		if size := m.Description.SizeVT(); size > maxRawDescription {
			return nil, fmt.Sprintf("a description of %d bytes", size), nil
		}
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: Description(m.Description, hostname)}}, "", nil
	case *swarmv1.FromWorker_Images:
		held, left := Images(m.Images)
		return &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: held}}, left, nil
	}
	return nil, "a message of an unknown kind", nil
}

// Hello returns what may be used of a greeting. Its description is nil when there is none, or when it is too large.
func Hello(h *swarmv1.Hello, hostname string) (clean *swarmv1.Hello, left string) {
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
		left = fmt.Sprintf("a description of %d bytes", size)
	case h.GetDescription() != nil:
		clean.Description = Description(h.GetDescription(), hostname)
	}
	return clean, left
}

// Report returns what may be stored of a report: statuses of different tasks, each of at most MaxStatus bytes.
func Report(r *swarmv1.StatusReport) (clean *swarmv1.StatusReport, left string, err error) {
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
			left = why
			continue
		}
		clean.Updates = append(clean.Updates, good)
	}
	return clean, left, nil
}

// Status returns what may be stored of a task's status; nil, and why, when it names no task, or a state that no worker
// reports. Meta, session and sequence are the receiver's to set.
func Status(st *swarmv1.TaskStatus) (clean *swarmv1.TaskStatus, why string) {
	if !ident.IsKey(st.GetTaskId()) {
		return nil, "a status of no valid task id"
	}
	if !reported(st.GetState()) {
		return nil, fmt.Sprintf("a status of state %d", st.GetState())
	}
	clean = &swarmv1.TaskStatus{
		TaskId: st.GetTaskId(), State: st.GetState(), Timestamp: instant(st.GetTimestamp()), RunningSince: instant(st.GetRunningSince()),
		Message: Text(st.GetMessage(), MaxText), Err: Text(st.GetErr(), MaxText), RefusedRevision: st.GetRefusedRevision(),
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

// reported tells whether workers report a state. The planner alone writes what is below, and what comes after.
func reported(s swarmv1.TaskState) bool {
	_, known := swarmv1.TaskState_name[int32(s)]
	return known && s >= swarmv1.TaskState_ASSIGNED && s <= swarmv1.TaskState_REJECTED
}

// instant is nil for what is no time.
func instant(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t == nil || t.CheckValid() != nil {
		return nil
	}
	return &timestamppb.Timestamp{Seconds: t.GetSeconds(), Nanos: t.GetNanos()}
}

// port accepts a port that a node publishes for one of its tasks.
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

// Images returns the first MaxHeld valid digests of a report, each once, as far as they fit into MaxReport.
func Images(r *swarmv1.ImageReport) (clean *swarmv1.ImageReport, left string) {
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
		left = fmt.Sprintf("%d of %d image digests", n, len(r.GetHeld()))
	}
	return clean, left
}

// IsDigest reports whether s is the digest of content.
func IsDigest(s string) bool {
	return len(s) <= maxDigest && digest.Digest(s).Validate() == nil
}

// Digests returns the valid digests among the first limit ones.
func Digests(in []string, limit int) []string {
	return pick(in[:min(len(in), limit)], limit, func(s string) (string, bool) { return s, IsDigest(s) })
}
