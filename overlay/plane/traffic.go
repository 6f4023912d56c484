//go:build linux

package plane

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"swarm/overlay/netns"
	"swarm/overlay/vip"
)

// Traffic holds the counters of a task's interfaces and TCP connections. Reading them costs the
// traffic nothing, because the kernel counts it anyway.
type Traffic struct {
	TaskID   string
	Networks []NetworkTraffic
	// Accepted and Made count TCP connections since the task's namespace was created. Open is the
	// number of current ones. All three include the task's connections to itself.
	Accepted, Made, Open uint64
}

// NetworkTraffic holds the counters of a task on one network.
type NetworkTraffic struct {
	// Network is the name of the network. "bridge" is the node's bridge network.
	Network        string
	Received, Sent Count
	// Connections counts connections of all protocols. It is valid only if Known is set. Known is
	// false for a task without overlay networks, and until the task's service addresses have been
	// programmed.
	Connections vip.Connections
	Known       bool
}

// Count is the traffic in one direction.
type Count struct{ Bytes, Packets, Dropped uint64 }

// bridgeName is the name of the node's bridge network.
const bridgeName = "bridge"

// Traffic reads the kernel's counters in the namespace of each task. It omits a task whose
// namespace cannot be read, for example because the task has just ended.
func (p *Plane) Traffic(ctx context.Context) []Traffic {
	p.mu.Lock()
	tasks := slices.Collect(maps.Values(p.tasks))
	p.mu.Unlock()
	out := make([]Traffic, 0, len(tasks))
	for _, t := range tasks {
		found, err := t.traffic()
		if err != nil {
			continue
		}
		if err := p.addConnections(ctx, t, found.Networks); err != nil {
			p.deps.Log.Warn("cannot read the number of connections of a task: its metrics lack them", "task", t.TaskID, "err", err)
		}
		out = append(out, found)
	}
	return out
}

// BytesOfTasks returns the traffic of the tasks on all their networks together, by id. It costs
// less than Traffic, because it does not count connections. Only the Bytes of the counts are set.
// Tasks whose namespaces cannot be read are missing.
func (p *Plane) BytesOfTasks() map[string][2]Count {
	p.mu.Lock()
	tasks := slices.Collect(maps.Values(p.tasks))
	p.mu.Unlock()
	out := make(map[string][2]Count, len(tasks))
	for _, t := range tasks {
		found, err := t.traffic()
		if err != nil {
			continue
		}
		var sum [2]Count
		for _, n := range found.Networks {
			sum[0].Bytes += n.Received.Bytes
			sum[1].Bytes += n.Sent.Bytes
		}
		out[t.TaskID] = sum
	}
	return out
}

// addConnections adds the number of connections that began on each network.
func (p *Plane) addConnections(ctx context.Context, t *attachedTask, networks []NetworkTraffic) error {
	if len(t.Overlays) == 0 {
		return nil
	}
	return p.withNamespace(t, func() error {
		all, err := p.deps.Balancer.Connections(ctx, t.Result.Netns)
		for i := range networks {
			networks[i].Connections, networks[i].Known = all[Interface(i)], all != nil
		}
		return err
	})
}

func (t *attachedTask) traffic() (Traffic, error) {
	out := Traffic{TaskID: t.TaskID}
	ns, err := netns.Open(t.Result.Netns)
	if err != nil {
		return out, err
	}
	defer ns.Close()
	var dev, snmp []byte
	err = ns.Do(func() (err error) {
		if dev, err = os.ReadFile("/proc/thread-self/net/dev"); err == nil {
			snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("counters of task %s: %w", t.TaskID, err)
	}
	counts := parseDev(dev)
	names := make([]string, 0, len(t.Overlays)+1)
	for _, o := range t.Overlays {
		names = append(names, o.Network.GetSpec().GetName())
	}
	if t.OnBridge {
		names = append(names, bridgeName)
	}
	for i, name := range names {
		if c, ok := counts[Interface(i)]; ok {
			out.Networks = append(out.Networks, NetworkTraffic{Network: name, Received: c[0], Sent: c[1]})
		}
	}
	tcp := parseSNMP(snmp, "Tcp")
	out.Made, out.Accepted, out.Open = tcp["ActiveOpens"], tcp["PassiveOpens"], tcp["CurrEstab"]
	return out, nil
}

// parseDev parses /proc/net/dev. It returns the received and the sent traffic of each interface.
func parseDev(text []byte) map[string][2]Count {
	out := map[string][2]Count{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 16 {
			continue
		}
		n := make([]uint64, len(f))
		for i := range f {
			n[i], _ = strconv.ParseUint(f[i], 10, 64) // The kernel writes only numbers.
		}
		out[strings.TrimSpace(name)] = [2]Count{{Bytes: n[0], Packets: n[1], Dropped: n[3]}, {Bytes: n[8], Packets: n[9], Dropped: n[11]}}
	}
	return out
}

// parseSNMP returns the counters of one protocol in /proc/net/snmp, which has a line of names and
// then a line of values.
func parseSNMP(text []byte, protocol string) map[string]uint64 {
	out := map[string]uint64{}
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), protocol+":")
		f := strings.Fields(rest)
		switch {
		case !ok:
		case names == nil:
			names = f
		default:
			for i := range min(len(names), len(f)) {
				out[names[i]], _ = strconv.ParseUint(f[i], 10, 64) // MaxConn is negative if there is no limit; it counts as 0.
			}
		}
	}
	return out
}
