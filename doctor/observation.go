package doctor

import (
	"net/netip"
	"time"

	"swarm/internal/sysctl"
)

// Observations are what was seen, without judgement. An empty reason (the Reason, Problem and Taken fields) means that it
// worked.
type Observations struct {
	Features []Feature
	Runc     Runc
	Cgroup   Cgroup
	Ports    []Port
	// MTU of the way out, in bytes; MTUProblem when it could not be found out.
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

// Feature is something that the kernel is asked to do, and was made to do for the test.
type Feature struct {
	Name string
	// Module that has it, where the kernel loads it as one.
	Module string
	// For is what does not work without it.
	For    string
	Reason string
}

// Runc is the program that starts containers here.
type Runc struct {
	Version string
	// NoProfiles says why containers run without seccomp profiles; empty when they do not.
	NoProfiles string
}

// Cgroup is the host's cgroup hierarchy, or hierarchies.
type Cgroup struct {
	// Version is 1, 2, or 0 when there is none to be seen.
	Version int
	// Controllers that can be used, by name; the value says why nothing can be made below it.
	Controllers map[string]string
}

// Port is one that a node listens on.
type Port struct {
	Network string // tcp or udp
	Number  uint16
	For     string
	// Flag of `swarm init` that chooses another.
	Flag  string
	Taken string
}

// Sysctl is a kernel setting. Value is empty when the kernel does not have it.
type Sysctl struct {
	Key, Value string
	// Fixed tells that it cannot be written.
	Fixed bool
}

// The settings that are judged.
const (
	sysctlForward  = "net.ipv4.ip_forward"
	sysctlRPFilter = "net.ipv4.conf.all.rp_filter"
	sysctlBridge   = "net.bridge.bridge-nf-call-iptables"
)

// SysctlKeys are the settings that Judge wants to see.
func SysctlKeys() []string {
	keys := []string{sysctlForward, sysctlRPFilter, sysctlBridge}
	for _, l := range sysctl.Limits() {
		keys = append(keys, l.Key)
	}
	return keys
}

// Firewall is the rules of others.
type Firewall struct {
	// ForwardDrop and InputDrop name the base chains with policy drop.
	ForwardDrop, InputDrop []string
	// Legacy tells that tables of iptables-legacy are in force, which nftables does not show.
	Legacy bool
	// Devices are those of ours that are up.
	Devices []Device
	Problem string
}

// Device is an interface of ours. Dropped names the chains that forward nothing for it, though they should.
type Device struct {
	Name    string
	Dropped []string
}

// Networks is what this host and the cluster's networks are to each other.
type Networks struct {
	Networks []Network
	// Pools that subnets of new networks are taken from.
	Pools []netip.Prefix
	// Ranges are those that the host has an address in, or a route to.
	Ranges []Range
	// Room is how large a packet of a network may be, in bytes; 0: not known.
	Room int
	// Held are the ports published on all nodes that another program of this host has, with its name.
	Held []string
	// Unable are those that this host cannot serve, with what it lacks.
	Unable  []string
	Problem string
}

// Network is one of the cluster's, or the host's own for containers.
type Network struct {
	Name    string
	Subnets []netip.Prefix
	// MTU of its interfaces; 0: this host has none.
	MTU int
	// OnHost tells that the host itself has an address there, on this device.
	OnHost string
}

// Range is a part of the address space that a device leads to; empty: it leads nowhere.
type Range struct {
	Prefix netip.Prefix
	Device string
}

// Clock is the kernel's opinion of its clock.
type Clock struct {
	Synchronised bool
	// Error is the greatest that the clock may be wrong by, when synchronised.
	Error   time.Duration
	Problem string
}

// Disk is the file system of the state folder.
type Disk struct {
	// Path is the folder; Looked the nearest one above it that exists, where the test was made.
	Path, Looked             string
	Total, Free              uint64 // bytes; Free without the reserve of root
	Inodes, InodesFree       uint64 // 0, 0 where the file system does not count them
	NoExec                   bool
	SyncMedian, SyncSlowest  time.Duration
	Problem, OverlayFSReason string
}

// DNS is the host's name servers.
type DNS struct {
	Servers []NameServer
	Problem string
}

// NameServer is one that was asked for a name that cannot exist.
type NameServer struct {
	Address string
	Took    time.Duration
	// Invented tells that it gave an address for that name.
	Invented bool
	Problem  string
}

// Cluster is what this host's daemon says, and what the other nodes say about the way between.
type Cluster struct {
	// State of the membership; empty when no daemon answers.
	State string
	// Problem is why a member could not ask the others.
	Problem string
	Nodes   []Node
}

// Active tells whether this host is a member.
func (c Cluster) Active() bool { return c.State == "active" }

// Node is another node. When it could not be asked, Problem says why, and nothing else is known.
type Node struct {
	Name, Address string
	Problem       string
	// Offset is its clock minus ours, known within half of RoundTrip.
	Offset, RoundTrip time.Duration
	Ways              []Way
}

// Way is one port in one direction.
type Way struct {
	Network string
	Port    uint16
	For     string
	// In is from there to here.
	In bool
	// Bytes of the packet of the MTU's size, when that is what was tried; else 0.
	Bytes  int
	Reason string
}
