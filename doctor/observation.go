package doctor

import (
	"net/netip"
	"time"

	"swarm/internal/sysctl"
)

// Observations are facts about a host, without judgement. The fields Reason, Problem and Taken are
// empty if the attempt succeeded.
type Observations struct {
	Features []Feature
	Runc     Runc
	Cgroup   Cgroup
	Ports    []Port
	// MTU is that of the interface with the default route, in bytes. MTUProblem is set if it is not
	// known.
	MTU        int
	MTUProblem string
	Sysctls    []Sysctl
	Firewall   Firewall
	Networks   Networks
	Clock      Clock
	Disk       Disk
	DNS        DNS
	Cluster    Cluster
}

// Feature is something that the kernel must be able to do, and was made to do for the test.
type Feature struct {
	Name string
	// Module is the kernel module with the feature, if there is one.
	Module string
	// For names the function that does not work without the feature.
	For    string
	Reason string
}

// Runc is the program that starts the containers of this host.
type Runc struct {
	Version string
	// NoProfiles says why containers run without seccomp profiles. It is empty if they have them.
	NoProfiles string
}

// Cgroup describes the cgroups of the host.
type Cgroup struct {
	// Version is 1 or 2, or 0 if no hierarchy is mounted.
	Version int
	// Controllers has, by the name of a controller, why no cgroup can be made for it.
	Controllers map[string]string
}

// Port is a port on which a node listens.
type Port struct {
	Network string // tcp or udp
	Number  uint16
	For     string
	// Flag of `swarm init` selects another port.
	Flag  string
	Taken string
}

// Sysctl is a kernel setting.
type Sysctl struct {
	Key, Value string
	// Fixed is set if the setting cannot be written.
	Fixed bool
}

// The kernel settings that are judged.
const (
	sysctlForward  = "net.ipv4.ip_forward"
	sysctlRPFilter = "net.ipv4.conf.all.rp_filter"
	sysctlBridge   = "net.bridge.bridge-nf-call-iptables"
)

// SysctlKeys returns the kernel settings that Judge looks at.
func SysctlKeys() []string {
	keys := []string{sysctlForward, sysctlRPFilter, sysctlBridge}
	for _, l := range sysctl.Limits() {
		keys = append(keys, l.Key)
	}
	return keys
}

// Firewall describes the effect of other programs' rules on swarm's packets.
type Firewall struct {
	// ForwardDrop and InputDrop are the base chains with the policy drop.
	ForwardDrop, InputDrop []string
	// Legacy is set if there are tables of iptables-legacy, which nftables does not show.
	Legacy bool
	// Devices are the interfaces of swarm that are up.
	Devices []Device
	Problem string
}

// Device is an interface of swarm. Dropped are the chains that drop its packets and have no rule of
// swarm that accepts them.
type Device struct {
	Name    string
	Dropped []string
}

// Networks describes the cluster's networks, and the ranges that this host routes.
type Networks struct {
	Networks []Network
	// Pools are the ranges from which the subnets of new networks are taken.
	Pools []netip.Prefix
	// Ranges are those in which the host has an address, or to which it has a route.
	Ranges []Range
	// Room is the size in bytes of the largest packet that fits into a network; 0 is unknown.
	Room int
	// Held are the ports published on all nodes that another program of this host has, with its
	// name.
	Held []string
	// Unable are the published ports that this host cannot serve, each with the missing feature.
	Unable  []string
	Problem string
}

// Network is a network of the cluster, or the bridge network of this host.
type Network struct {
	Name    string
	Subnets []netip.Prefix
	// MTU is that of its interfaces in bytes; 0 if this host has none.
	MTU int
	// OnHost is the device with the host's own address on the network, if it has one.
	OnHost string
}

// Range is a range that the host routes to a device. Device is empty if it leads nowhere.
type Range struct {
	Prefix netip.Prefix
	Device string
}

// Clock is the state of the host's clock, as the kernel reports it.
type Clock struct {
	Synchronised bool
	// Error is the maximum error of the clock if it is synchronised.
	Error   time.Duration
	Problem string
}

// Disk is the file system of the state folder.
type Disk struct {
	// Path is the state folder. Looked is that folder, or the nearest one above it that exists; the
	// test was made there.
	Path, Looked             string
	Total, Free              uint64 // bytes; Free without the blocks that are reserved for root
	Inodes, InodesFree       uint64 // both 0 if the file system does not count them
	NoExec                   bool
	SyncMedian, SyncSlowest  time.Duration
	Problem, OverlayFSReason string
	// Full is set if Problem is that the file system has no space or no inodes left.
	Full bool
}

// DNS is the host's name servers.
type DNS struct {
	Servers []NameServer
	Problem string
}

// NameServer is a name server that was asked for a name that cannot exist.
type NameServer struct {
	Address string
	Took    time.Duration
	// Invented is set if it answered with an address.
	Invented bool
	Problem  string
}

// Cluster describes the membership of this host and the paths to other nodes, as the daemon reports
// them.
type Cluster struct {
	// State is that of the membership. It is empty if no daemon answers.
	State string
	// Error is what the daemon reports about its membership or its manager.
	Error string
	// Problem is why a member could not ask the other nodes.
	Problem string
	Nodes   []Node
}

// Active reports whether this host is a member.
func (c Cluster) Active() bool { return c.State == "active" }

// Node is another node. If it could not be asked, Problem says why, and nothing else is known.
type Node struct {
	Name, Address string
	Problem       string
	// Unavailable is why it takes no new tasks, for example because its disk is full. It is empty
	// if it takes tasks, or if the asked node is no manager and does not know.
	Unavailable string
	// Offset is its clock minus this host's, known within half of RoundTrip.
	Offset, RoundTrip time.Duration
	Ways              []Way
}

// Way is the path to one port in one direction.
type Way struct {
	Network string
	Port    uint16
	For     string
	// In is set for the direction from the other node to this host.
	In bool
	// Bytes is the size of the packet if one of the size of the MTU was tried, and else 0.
	Bytes  int
	Reason string
}
