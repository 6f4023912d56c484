package spec

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	maxHistory    = 100
	maxRevisions  = 1000
	minCertExpiry = 30 * time.Second
	// minTimeout is the shortest timeout of Raft and of sessions. Shorter ones were never measured
	// under a starved CPU.
	minTimeout = 50 * time.Millisecond
)

// Cluster returns a complete and valid copy of the spec of a cluster.
func Cluster(in *swarmv1.ClusterSpec) (*swarmv1.ClusterSpec, error) {
	c := in.CloneVT()
	if c == nil {
		c = &swarmv1.ClusterSpec{}
	}
	defaultCluster(c)
	if h := c.Orchestration.TaskHistoryRetentionLimit; h < 0 || h > maxHistory {
		return nil, invalid("task history limit %d is out of range: use 0 to %d", h, maxHistory)
	}
	if h := c.Orchestration.RevisionHistoryLimit; h < 1 || h > maxRevisions {
		return nil, invalid("revision history limit %d is out of range: use 1 to %d", h, maxRevisions)
	}
	if err := firstError(
		checkLabels("cluster", c.GetLabels()),
		checkAtLeast("node certificate expiry", c.CaConfig.NodeCertExpiry, minCertExpiry),
		checkAtLeast("heartbeat period", c.Dispatcher.HeartbeatPeriod, minTimeout),
		checkAtLeast("session timeout", c.Dispatcher.SessionTimeout, minTimeout),
		checkLog(c.GetTaskDefaults().GetLogDriver()),
		checkPools(c.Network)); err != nil {
		return nil, err
	}
	if c.Dispatcher.SessionTimeout.AsDuration() <= c.Dispatcher.HeartbeatPeriod.AsDuration() {
		return nil, invalid("session timeout %s is not above the heartbeat period %s: every node would be down; raise it", c.Dispatcher.SessionTimeout.AsDuration(), c.Dispatcher.HeartbeatPeriod.AsDuration())
	}
	return c, nil
}

// SessionTiming returns the period of the heartbeats of workers, and the time after the last
// heartbeat at which a node counts as down. That time is also the lease of single-writer tasks.
// Fields that are not set have their defaults. timeout is at least MissedHeartbeats times beat.
func SessionTiming(d *swarmv1.DispatcherConfig) (beat, timeout time.Duration) {
	beat, timeout = DefaultHeartbeat, DefaultSessionTimeout
	if d.GetHeartbeatPeriod().AsDuration() > 0 {
		beat = d.GetHeartbeatPeriod().AsDuration()
	}
	if d.GetSessionTimeout().AsDuration() > 0 {
		timeout = d.GetSessionTimeout().AsDuration()
	}
	return beat, max(timeout, MissedHeartbeats*beat)
}

func checkAtLeast(what string, d *durationpb.Duration, least time.Duration) error {
	if err := checkDuration(what, d); err != nil {
		return err
	}
	if d.AsDuration() < least {
		return invalid("%s %s is too short: use %s or more", what, d.AsDuration(), least)
	}
	return nil
}

func checkPools(n *swarmv1.NetworkDefaults) error {
	for _, p := range []struct {
		what string
		port uint32
	}{{"cluster port", n.ClusterPort}, {"gossip port", n.GossipPort}, {"data path port", n.DataPathPort}} {
		if p.port > maxPort {
			return invalid("%s %d is out of range: use 1 to %d", p.what, p.port, maxPort)
		}
	}
	if n.SubnetSize > 29 {
		return invalid("subnet size %d leaves no addresses: use 29 or less", n.SubnetSize)
	}
	for _, s := range n.DefaultAddrPool {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return invalid("address pool %s is not a subnet: write it like 10.0.0.0/8", quote(s))
		}
		if p.Masked() != p {
			return invalid("address pool %s has host bits set: write %s", quote(s), p.Masked())
		}
		if !p.Addr().Is4() || p.Addr().IsLoopback() || p.Addr().IsMulticast() {
			return invalid("address pool %s is not one of IPv4 addresses for hosts: choose one like 10.0.0.0/8; networks with --ipv6 get a subnet of their own", p)
		}
		if uint32(p.Bits()) > n.SubnetSize {
			return invalid("address pool %s is smaller than one subnet of size %d: use a larger pool", quote(s), n.SubnetSize)
		}
	}
	return nil
}

// Node returns a complete and valid copy of the spec of a node. The name may be empty: the node
// then has its hostname as name.
func Node(in *swarmv1.NodeSpec) (*swarmv1.NodeSpec, error) {
	n := in.CloneVT()
	if n == nil {
		n = &swarmv1.NodeSpec{}
	}
	if _, ok := swarmv1.NodeSpec_Role_name[int32(n.Role)]; !ok {
		return nil, invalid("role %d is not known: use worker or manager", n.Role)
	}
	if _, ok := swarmv1.NodeSpec_Availability_name[int32(n.Availability)]; !ok {
		return nil, invalid("availability %d is not known: use active, pause or drain", n.Availability)
	}
	return n, checkLabels("node", n.Labels)
}
