package term

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/explain"
	swarmv1 "swarm/proto/swarm/v1"
)

// Plural returns the ending of a noun after the number n: "s", or "" for 1.
func Plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// SplitImage returns the repository of an image, as users write it, and the tag, "<none>" if it has
// none.
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

// NodeHostname returns the name of a node.
func NodeHostname(n *swarmv1.NodeInfo) string {
	return n.GetNode().GetHostname()
}

// Size returns an amount of bytes in decimal units with three digits: "12.3MB".
func Size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// EnumWord returns the value of an enum as Docker writes it: "on-failure".
func EnumWord(v fmt.Stringer) string {
	return strings.ReplaceAll(strings.ToLower(v.String()), "_", "-")
}

// UpdateWord returns the state of an update as Docker writes it: "rollback_completed".
func UpdateWord(st swarmv1.UpdateStatus_State) string { return strings.ToLower(st.String()) }

// Capitalized returns a state as tables show it: "Running".
func Capitalized(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Ago returns the time from t to now as text: "5 seconds ago", "About a minute ago". It returns ""
// if t is not set. A time t after now counts as now.
func Ago(now time.Time, t *timestamppb.Timestamp) string {
	if !t.IsValid() || t.AsTime().IsZero() {
		return ""
	}
	return units.HumanDuration(max(now.Sub(t.AsTime()), 0)) + " ago"
}

// Stamp returns t in RFC 3339 with nanoseconds, in UTC. It returns "" if t is not set.
func Stamp(t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339Nano)
}

// ShortImage returns an image as the user named it. The digest to which it was pinned is left out
// if there is a tag.
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

// must returns a reference from which a part was removed. It panics on an error, because the rest
// of a valid reference is always valid.
func must(ref reference.NamedTagged, err error) reference.Named {
	if err != nil {
		panic("cli: a part of a valid reference is not valid: " + err.Error())
	}
	return ref
}

// ShortID returns the first 12 characters of an id, by which people compare ids.
func ShortID(id string) string { return id[:min(12, len(id))] }

// PortList returns published ports as tables show them: "*:8080->80/tcp, *:90-92->90-92/udp".
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

// ModeWord returns the mode of a service as `service ls` shows it.
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

// TaskName returns "web.2", and for tasks of global services "web.NODEID".
func TaskName(t *swarmv1.TaskInfo) string {
	return explain.TaskName(cmp.Or(t.GetServiceName(), t.GetTask().GetServiceId()), t.GetTask())
}

// TaskNode returns the name of a task's node, or the id of the node if the name is not known. It
// returns "" if the task has no node yet.
func TaskNode(t *swarmv1.TaskInfo) string {
	if t.GetNodeName() != "" {
		return t.GetNodeName()
	}
	return t.GetTask().GetNodeId()
}

// SortBy sorts a list by a key, and keeps the order of equal keys.
func SortBy[T any](list []T, key func(T) string) {
	slices.SortStableFunc(list, func(a, b T) int { return strings.Compare(key(a), key(b)) })
}

// WithoutProfiles returns a warning if containers of this build run without seccomp profiles, and
// "" if they have them. It also returns "" for a build without an embedded runc, because only the
// node can find out what the runc of its host can do.
func WithoutProfiles(v *swarmv1.VersionInfo) string {
	if v.GetSeccomp() || v.GetRunc() == "" || v.GetRunc() == hostRunc {
		return ""
	}
	return "containers run without a seccomp profile and may make any system call: this swarm was built without libseccomp"
}

// hostRunc is the version of runc that a build without an embedded runc reports.
const hostRunc = "of the host"
