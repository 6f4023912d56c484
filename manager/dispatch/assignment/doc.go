// Package assignment computes the Assignments messages that a worker is sent: which objects a node
// needs, and what has changed for it since the last message.
//
// One message holds, in this order:
//
//   - objects that tasks of the node name (revisions, secrets, configs, networks, endpoints), each
//     sent before the first task that needs it;
//   - objects that the node needs whether it has tasks or not: the gossip keys, the network
//     ingress, and the images that it must keep a copy of;
//   - what its overlay has to know: a Peering for every node of the cluster, a Routing for every
//     service that concerns the node, and a Backend for every placed task of such a service;
//   - the tasks that are placed on the node and are new or have changed;
//   - references to what the node must forget: first tasks, then objects that no task names any
//     more, and peers, services and backends that do not concern it any more.
//
// A service concerns a node when it publishes a port on all nodes, or when it is on a network to
// which the node is attached. A node is attached to a network while a task on that network is
// placed on the node and has not ended.
//
// The first message of a session is complete: the worker drops all that it does not name. The next
// ones hold differences. State follows the store and says in a Dirty which nodes must look at which
// objects again. A Set remembers what one node has been sent, and computes the next message from
// the newest view. An object that changed several times between two messages is sent once.
//
// The package decides nothing about tasks, sends nothing, and has no goroutines. Package dispatch
// calls it: the goroutine that follows the store owns State's writes, and each session's sending
// goroutine owns its Set.
package assignment
