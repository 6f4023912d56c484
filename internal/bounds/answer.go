package bounds

import (
	"slices"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxRecord is the longest log record that LogRecords accepts, in bytes. Workers split longer
	// lines into records of at most a quarter of MaxRecord.
	MaxRecord = 64 << 10
	// MaxOutput is the largest output message of a process that Output accepts, in bytes.
	MaxOutput = 1 << 20
	// MaxRelease is the most images that a node may ask to remove in one request.
	MaxRelease = 1024

	maxStep    = 256
	maxLayer   = 64
	maxHeldOf  = 8192 // the number of images, containers, volumes or logs of one node
	maxPath    = 4096
	maxDetails = 64
	maxTasks   = 8192 // the number of tasks of one network on one node
	maxPeers   = 8192
	maxTried   = 32
	// maxHeldBytes limits the disk usage of one node in an answer about all nodes, in bytes. 1,000
	// images with a few labels each take about as much.
	maxHeldBytes = 256 << 10
)

// Progress returns the part of the progress of a node with an image that may be shown. It has no
// image, because only the success of the answer of the node counts. The caller adds the name of the
// node.
func Progress(p *swarmv1.ImageProgress) *swarmv1.ImageProgress {
	return &swarmv1.ImageProgress{
		Step: Text(p.GetStep(), maxStep), Id: Text(p.GetId(), maxLayer), Current: max(p.GetCurrent(), 0), Total: max(p.GetTotal(), 0),
	}
}

// LogRecords returns the records and details that may be shown of the answer of a node to a request
// for the logs of tasks. Records and details of other tasks are dropped. whose returns the node,
// service and slot of a task; it is called only with ids from tasks.
func LogRecords(m *swarmv1.TaskLogsResponse, tasks []string, whose func(taskID string) *swarmv1.LogRecord) *swarmv1.TaskLogsResponse {
	out := &swarmv1.TaskLogsResponse{}
	for _, r := range m.GetRecords() {
		known := r.GetStream() == swarmv1.LogRecord_STDOUT || r.GetStream() == swarmv1.LogRecord_STDERR
		if !known || len(r.GetData()) > MaxRecord || !slices.Contains(tasks, r.GetTaskId()) {
			continue
		}
		of := whose(r.GetTaskId())
		out.Records = append(out.Records, &swarmv1.LogRecord{
			Timestamp: instant(r.GetTimestamp()), Stream: r.GetStream(), Data: r.GetData(), TaskId: r.GetTaskId(), NodeId: of.GetNodeId(),
			ServiceId: of.GetServiceId(), Slot: of.GetSlot(), Offset: r.GetOffset(), Partial: r.GetPartial(), Lost: r.GetLost(),
		})
	}
	out.Details = pick(m.GetDetails(), len(tasks), func(d *swarmv1.LogDetails) (*swarmv1.LogDetails, bool) {
		if !slices.Contains(tasks, d.GetTaskId()) {
			return nil, false
		}
		details := make(map[string]string)
		for key, value := range d.GetDetails() {
			if len(details) < maxDetails {
				details[Text(key, maxValue)] = Text(value, MaxText)
			}
		}
		return &swarmv1.LogDetails{TaskId: d.GetTaskId(), Details: details}, true
	})
	return out
}

// Output returns a message with output of a process in a container. It returns an error if the
// message is larger than MaxOutput. The bytes are those of the process: code that shows them on a
// terminal decides which control characters it allows.
func Output(m *swarmv1.ExecOutput) (*swarmv1.ExecOutput, error) {
	if n := m.SizeVT(); n > MaxOutput {
		return nil, invalid("the node sends a piece of output of %d bytes, at most %d are allowed", n, MaxOutput)
	}
	return m, nil
}

// Forwarded returns a message of a forwarded connection. It returns an error if the message is
// larger than MaxOutput.
func Forwarded(m *swarmv1.ForwardOutput) (*swarmv1.ForwardOutput, error) {
	if n := m.SizeVT(); n > MaxOutput {
		return nil, invalid("the node sends a piece of a connection of %d bytes, at most %d are allowed", n, MaxOutput)
	}
	return m, nil
}

// DiskUsage returns the part of the disk usage of a node that may be used, at most maxHeldBytes of
// it.
func DiskUsage(u *swarmv1.DiskUsageResponse) *swarmv1.DiskUsageResponse {
	left := maxHeldBytes
	return &swarmv1.DiskUsageResponse{
		Path: Text(u.GetPath(), maxPath), Total: max(u.GetTotal(), 0), Free: max(u.GetFree(), 0), ImagesSize: max(u.GetImagesSize(), 0),
		Images: pick(u.GetImages(), maxHeldOf, fits(&left, heldImage)),
		Containers: pick(u.GetContainers(), maxHeldOf, fits(&left, func(c *swarmv1.HeldContainer) (*swarmv1.HeldContainer, bool) {
			ok := ident.IsKey(c.GetTaskId()) && (c.GetServiceId() == "" || ident.IsKey(c.GetServiceId()))
			return &swarmv1.HeldContainer{
				TaskId: c.GetTaskId(), ServiceId: c.GetServiceId(), Running: c.GetRunning(), Dead: c.GetDead(), Size: max(c.GetSize(), 0),
			}, ok
		})),
		Volumes: pick(u.GetVolumes(), maxHeldOf, fits(&left, func(v *swarmv1.HeldVolume) (*swarmv1.HeldVolume, bool) {
			return &swarmv1.HeldVolume{Name: Text(v.GetName(), ident.MaxVolumeName), Links: v.GetLinks(), Size: max(v.GetSize(), 0)}, v.GetName() != ""
		})),
		Logs: pick(u.GetLogs(), maxHeldOf, fits(&left, func(l *swarmv1.HeldLog) (*swarmv1.HeldLog, bool) {
			return &swarmv1.HeldLog{TaskId: l.GetTaskId(), Size: max(l.GetSize(), 0), Retired: instant(l.GetRetired())}, ident.IsKey(l.GetTaskId())
		})),
	}
}

// fits returns a function for pick that drops the items for which no bytes are left. It counts the
// size after valid has cleaned an item, because one byte that is not printable becomes three.
func fits[T interface{ SizeVT() int }](left *int, valid func(T) (T, bool)) func(T) (T, bool) {
	return func(in T) (T, bool) {
		out, ok := valid(in)
		if !ok || out.SizeVT() > *left {
			return out, false
		}
		*left -= out.SizeVT()
		return out, true
	}
}

func heldImage(h *swarmv1.HeldImage) (*swarmv1.HeldImage, bool) {
	img := h.GetImage()
	return &swarmv1.HeldImage{
		Image: &swarmv1.Image{
			Name: Text(img.GetName(), maxStep), Digest: img.GetDigest(), Size: max(img.GetSize(), 0), Loaded: img.GetLoaded(),
			Platforms: pick(img.GetPlatforms(), maxDetails, func(p *swarmv1.Platform) (*swarmv1.Platform, bool) { return platform(p), p != nil }),
		},
		Containers: h.GetContainers(), Since: instant(h.GetSince()), Labels: labels(h.GetLabels()), Size: max(h.GetSize(), 0), Unique: max(h.GetUnique(), 0),
	}, IsDigest(img.GetDigest())
}

// DiskPruned returns the part of the answer of a node about removed data that may be used.
func DiskPruned(p *swarmv1.DiskPruneResponse) *swarmv1.DiskPruneResponse {
	key := func(s string) (string, bool) { return s, ident.IsKey(s) }
	return &swarmv1.DiskPruneResponse{
		Digests: Digests(p.GetDigests(), maxHeldOf), Containers: pick(p.GetContainers(), maxHeldOf, key), Logs: pick(p.GetLogs(), maxHeldOf, key),
		Reclaimed: max(p.GetReclaimed(), 0),
	}
}

// Network returns the part of the answer of a node about a network that may be used.
func Network(n *swarmv1.NodeNetwork) *swarmv1.NodeNetwork {
	return &swarmv1.NodeNetwork{
		Index: n.GetIndex(), Absent: n.GetAbsent(), Vni: n.GetVni(), Mtu: n.GetMtu(), Underlay: Text(n.GetUnderlay(), maxWord), Port: n.GetPort(),
		Netns:   Text(n.GetNetns(), maxPath),
		TaskIds: pick(n.GetTaskIds(), maxTasks, func(s string) (string, bool) { return s, ident.IsKey(s) }),
		Peers: pick(n.GetPeers(), maxPeers, func(p *swarmv1.NodeNetworkPeer) (*swarmv1.NodeNetworkPeer, bool) {
			return &swarmv1.NodeNetworkPeer{Addr: p.GetAddr(), Endpoints: p.GetEndpoints()}, isAddr(p.GetAddr())
		}),
		Received: traffic(n.GetReceived()), Sent: traffic(n.GetSent()),
	}
}

func traffic(t *swarmv1.NetworkTraffic) *swarmv1.NetworkTraffic {
	if t == nil {
		return nil
	}
	return &swarmv1.NetworkTraffic{Packets: t.GetPackets(), Bytes: t.GetBytes(), Dropped: t.GetDropped()}
}

// Probe returns the part of the answer of a peer to a probe that may be used.
func Probe(p *swarmv1.ProbeResponse) *swarmv1.ProbeResponse {
	return &swarmv1.ProbeResponse{
		Hostname: Text(p.GetHostname(), ident.MaxHostname), ReceivedAt: instant(p.GetReceivedAt()), AnsweredAt: instant(p.GetAnsweredAt()),
		SmallCame: p.GetSmallCame(), LargeCame: p.GetLargeCame(), Large: p.GetLarge(),
		Tried: pick(p.GetTried(), maxTried, func(t *swarmv1.TriedWay) (*swarmv1.TriedWay, bool) {
			return &swarmv1.TriedWay{
				Network: Text(t.GetNetwork(), maxLayer), Port: t.GetPort(), Purpose: Text(t.GetPurpose(), maxStep), Bytes: t.GetBytes(), Error: Text(t.GetError(), maxTrouble),
			}, true
		}),
	}
}
