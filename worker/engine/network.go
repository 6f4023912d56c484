package engine

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// DriverOverlay is the driver of networks between hosts.
const DriverOverlay = "overlay"

// Drivers of networks that exist on every node without a row in the store. The worker itself treats host: such a task
// gets no namespace, and Attach is not called for it.
const (
	DriverHost   = "host"
	DriverNone   = "none"
	DriverBridge = "bridge"
)

// Network gives tasks their network namespaces.
type Network interface {
	// Attach makes the task's namespace and connects it. Doing it again gives the same answer. ErrInvalidArgument: a driver
	// that this node does not know. ErrAlreadyExists: a port that is taken, with its holder.
	Attach(ctx context.Context, a Attachment) (Attached, error)
	// Detach undoes Attach. Idempotent.
	Detach(ctx context.Context, taskID string) error
	// Restore is called once, before any Attach, with what the tasks of this node hold: everything else that an earlier
	// process left behind is removed, and what is missing of the rest is made again. Running tasks notice nothing.
	Restore(ctx context.Context, keep []Attachment) error
}

// Attachment is what a task needs of the network.
type Attachment struct {
	TaskID, ServiceID string
	// Networks, in the task's order. Empty, or only of driver none: a namespace with a loopback device.
	Networks []NetworkUse
	// Ports with mode=host; a published port of 0 is chosen by the node from 30000-32767.
	Ports []*swarmv1.PortConfig
	// Upstreams answer what the networks' own name service does not know; empty: the host's.
	Upstreams []string
	// SearchFirst: the task's resolv.conf sets ndots.
	SearchFirst bool
	// Held is what Attach has answered before; in Restore only.
	Held Attached
}

// NetworkUse is one network of a task.
type NetworkUse struct {
	// Network has at least its id and its driver's name, also for those without a row.
	Network *swarmv1.Network
	// Use has the addresses that the planner gave, if the network's are given by the cluster.
	Use *swarmv1.NetworkAttachment
}

// Driver is the name of the network's driver.
func (u NetworkUse) Driver() string { return u.Network.GetSpec().GetDriverConfig().GetName() }

// Attached is a task's place on the network.
type Attached struct {
	// Netns is the path of the namespace.
	Netns string
	// Addresses of the task in prefix notation, first the one that its own name resolves to.
	Addresses []string
	// Local are its addresses on the node's own network, which mean nothing to other nodes; nil: the same as Addresses.
	Local []string `json:",omitempty"`
	// Ports as published, the chosen ones filled in.
	Ports []*swarmv1.PortConfig
	// Nameservers for the task's resolv.conf; empty: the host's.
	Nameservers []string
}
