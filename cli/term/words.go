package term

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func Plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// SplitImage is the name as users write it, in repository and tag.
func SplitImage(name string) (repository, tag string) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name, "<none>"
	}
	tag = "<none>"
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	return reference.FamiliarName(ref), tag
}

func NodeHostname(n *swarmv1.NodeInfo) string {
	return n.GetNode().GetHostname()
}

func Size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// TaskError is what went wrong, or why no node takes the task, in one line.
func TaskError(st *swarmv1.TaskStatus) string {
	if u := st.GetUnplaced(); u != nil && st.GetState() <= swarmv1.TaskState_PENDING {
		return UnplacedLine(u)
	}
	return withoutClass(strings.Join(strings.Fields(st.GetErr()), " "))
}

// The words in which states, times, ports and images are printed.

// EnumWord is an enum's value as Docker writes it: "on-failure".
func EnumWord(v fmt.Stringer) string {
	return strings.ReplaceAll(strings.ToLower(v.String()), "_", "-")
}

// UpdateWord is the state of an update as Docker writes it: "rollback_completed".
func UpdateWord(st swarmv1.UpdateStatus_State) string { return strings.ToLower(st.String()) }

// Capitalized is a state as tables show it: "Running".
func Capitalized(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Ago is "5 seconds ago", "About a minute ago"; "" for no time. A clock that is ahead is now.
func Ago(now time.Time, t *timestamppb.Timestamp) string {
	if !t.IsValid() || t.AsTime().IsZero() {
		return ""
	}
	return units.HumanDuration(max(now.Sub(t.AsTime()), 0)) + " ago"
}

func Stamp(t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339Nano)
}

// ShortImage is the image as the user knows it, without the digest that it was pinned to unless there is no tag.
func ShortImage(image string) string {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	if tagged, ok := ref.(reference.NamedTagged); ok {
		return reference.FamiliarString(must(reference.WithTag(reference.TrimNamed(ref), tagged.Tag())))
	}
	return reference.FamiliarString(ref)
}

// must keeps a reference that was valid before a part was taken off.
func must(ref reference.NamedTagged, err error) reference.Named {
	if err != nil {
		panic("cli: a part of a valid reference is not valid: " + err.Error())
	}
	return ref
}

// ShortID is an id as far as people compare ids.
func ShortID(id string) string { return id[:min(12, len(id))] }

// PortList is "*:8080->80/tcp, *:90-92->90-92/udp" for ports published by the cluster.
func PortList(ports []*swarmv1.PortConfig) string {
	sorted := slices.Clone(ports)
	slices.SortFunc(sorted, func(a, b *swarmv1.PortConfig) int {
		if d := int(a.Protocol) - int(b.Protocol); d != 0 {
			return d
		}
		return int(a.PublishedPort) - int(b.PublishedPort)
	})
	var out []string
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && follows(sorted[n-1], sorted[n]) {
			n++
		}
		out = append(out, portWord(sorted[0], sorted[n-1]))
		sorted = sorted[n:]
	}
	return strings.Join(out, ", ")
}

func follows(a, b *swarmv1.PortConfig) bool {
	return a.PublishedPort != 0 && b.PublishedPort == a.PublishedPort+1 && b.TargetPort == a.TargetPort+1 &&
		a.Protocol == b.Protocol && a.HostIp == b.HostIp && a.PublishMode == b.PublishMode
}

func portWord(first, last *swarmv1.PortConfig) string {
	host := "*"
	if first.HostIp != "" {
		host = first.HostIp
	}
	span := func(from, to uint32) string {
		switch {
		case from == 0:
			return "?"
		case from == to:
			return fmt.Sprint(from)
		}
		return fmt.Sprintf("%d-%d", from, to)
	}
	return fmt.Sprintf("%s->%s/%s", net.JoinHostPort(host, span(first.PublishedPort, last.PublishedPort)),
		span(first.TargetPort, last.TargetPort), EnumWord(first.Protocol))
}

// ModeWord is a service's mode as `service ls` shows it.
func ModeWord(m *swarmv1.ServiceMode) string {
	switch m.GetMode().(type) {
	case *swarmv1.ServiceMode_Global:
		return "global"
	case *swarmv1.ServiceMode_ReplicatedJob:
		return "replicated job"
	case *swarmv1.ServiceMode_GlobalJob:
		return "global job"
	}
	return "replicated"
}

// TaskName is "web.2", and for tasks of global services "web.<node>".
func TaskName(t *swarmv1.TaskInfo) string {
	name := t.GetServiceName()
	if name == "" {
		name = t.GetTask().GetServiceId()
	}
	if slot := t.GetTask().GetSlot(); slot != 0 {
		return fmt.Sprintf("%s.%d", name, slot)
	}
	return name + "." + t.GetTask().GetNodeId()
}

// TaskNode is where the task is, in words; "" when it is nowhere yet.
func TaskNode(t *swarmv1.TaskInfo) string {
	if t.GetNodeName() != "" {
		return t.GetNodeName()
	}
	return t.GetTask().GetNodeId()
}

// SortBy sorts by a key.
func SortBy[T any](list []T, key func(T) string) {
	slices.SortStableFunc(list, func(a, b T) int { return strings.Compare(key(a), key(b)) })
}

// WithoutProfiles says that the containers of a build run without seccomp profiles, and why; "" when they do not, and when the
// build carries no runc of its own: what that of the host can do, its node finds out.
func WithoutProfiles(v *swarmv1.VersionInfo) string {
	if v.GetSeccomp() || v.GetRunc() == "" || v.GetRunc() == hostRunc {
		return ""
	}
	return "containers run without a seccomp profile and may make any system call: this swarm was built without libseccomp"
}

// hostRunc is the version of runc that a build without one names.
const hostRunc = "of the host"
