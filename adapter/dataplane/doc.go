// Package dataplane connects this host's worker and node to the overlay packages. It builds the
// data plane of a member (New) and its gossip (NewGossip), and translates between their types and
// those of the worker, the node, the managers' dispatcher and the doctor.
//
// The package owns three rules. It decides which interfaces a task gets and whether the interface
// on the bridge network has egress (planeAttachment). It makes the routing mesh once the VNI of the
// network `ingress` is known (meshes). It decides what a member reports about its networks to
// `swarm network inspect`, `swarm doctor` and the metrics. It has no state of its own beyond the
// current mesh, and it does not write to the kernel: package overlay/plane does. It refuses drivers
// and addresses that it cannot parse, with ErrInvalidArgument.
//
// Only cmd/swarm imports this package. Goroutines: those in Plane.Run and Gossip.Run, which wait
// for them.
package dataplane
