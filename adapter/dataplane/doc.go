// Package dataplane connects this host's worker and node to the overlay packages. It builds the
// data plane of a member (New) and its gossip (NewGossip). It translates between the types of
// package overlay and those of the worker, the node, the managers' dispatcher and the doctor.
//
// The package makes three decisions:
//   - which interfaces a task gets, and whether the interface on the bridge network has egress
//     (planeAttachment)
//   - when the routing mesh is made: when the VNI of the network `ingress` is known (meshes)
//   - what a member reports about its networks to `swarm network inspect`, `swarm doctor` and the
//     metrics
//
// Its only state is the current mesh. It does not write to the kernel: package overlay/plane does.
// It returns ErrInvalidArgument for a driver that it does not know, and for an address that it
// cannot parse.
//
// Its types Gossip and Plane wrap those of overlay/gossip and overlay/plane, and implement the
// interfaces of the same names in packages node, manager/dispatch/liveness and adapter/monitor.
//
// Only cmd/swarm imports this package. Goroutines: those in Plane.Run and Gossip.Run, which wait
// for them.
package dataplane
