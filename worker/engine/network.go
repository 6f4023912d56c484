package engine

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// DriverOverlay is the driver of networks between hosts.
const DriverOverlay = "overlay"

// Drivers of networks that exist on every node without a row in the store. The worker itself
// implements host: a task on it gets no namespace, and Attach is not called for it.
const (
	DriverHost   = "host"
	DriverNone   = "none"
	DriverBridge = "bridge"
)

// Network gives tasks their network namespaces.
type Network interface {
	// Attach creates the task's namespace and connects it to the networks. A repeated call returns
	// the same answer. ErrInvalidArgument: this node does not know a driver. ErrAlreadyExists: a
	// port is in use; the error names its holder.
	Attach(ctx context.Context, a Attachment) (Attached, error)
	// Detach undoes Attach. It is idempotent.
	Detach(ctx context.Context, taskID string) error
	// Restore is called once, before any Attach, with the attachments of this node's tasks. It
	// creates the parts of these attachments that are missing, and removes all other attachments
	// that an earlier process left. It does not disturb running tasks.
	Restore(ctx context.Context, keep []Attachment) error
}

// Attachment is what a task needs of the network.
type Attachment struct {
	TaskID, ServiceID string
	// Networks are in the task's order. If there are none, or only some with the driver none, the
	// namespace has only a loopback device.
	Networks []NetworkUse
	// Ports are those with mode=host. If a published port is 0, the node chooses one from
	// 30000-32767.
	Ports []*swarmv1.PortConfig
	// Upstreams are the name servers for names that the overlay's name server does not know.
	// Empty: the host's.
	Upstreams []string
	// SearchFirst is set if the task's resolv.conf sets ndots to more than 0. Names without a dot
	// are then looked up only with the search domains appended.
	SearchFirst bool
	// Held is the earlier answer of Attach. Only Restore uses it.
	Held Attached
}

// NetworkUse is one network of a task.
type NetworkUse struct {
	// Network has at least its id and its driver's name, also if it has no row in the store.
	Network *swarmv1.Network
	// Use has the addresses that the planner chose, if the cluster chooses those of the network.
	Use *swarmv1.NetworkAttachment
}

// Driver returns the name of the network's driver.
func (u NetworkUse) Driver() string { return u.Network.GetSpec().GetDriverConfig().GetName() }

// Attached is a task's place on the network.
type Attached struct {
	// Netns is the path of the namespace.
	Netns string
	// Addresses has the addresses of the task in prefix notation. The task's host name resolves to
	// the first one.
	Addresses []string
	// Local has the addresses of the task on the local network of its node, which other nodes
	// cannot use. Nil: the same as Addresses.
	Local []string `json:",omitempty"`
	// Ports are the published ports, with the numbers that the node has chosen.
	Ports []*swarmv1.PortConfig
	// Nameservers are the name servers for the task's resolv.conf: the overlay's name server if the
	// task is on an overlay network. If it is not, the list is empty, and the task uses the host's
	// name servers.
	Nameservers []string
}

// OnOverlay reports whether the task is on an overlay network, so that tasks on other nodes can
// connect to it. Only such a task has Nameservers.
func (a Attached) OnOverlay() bool { return len(a.Nameservers) > 0 }
