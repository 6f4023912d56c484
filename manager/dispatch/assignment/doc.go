// Package assignment computes the Assignments messages of a worker: which objects a node needs, and
// what has changed for it since the last message.
//
// One message holds three parts, in this order:
//
//  1. Objects that are new to the node or have changed. Some are needed on every node: the gossip
//     keys, the network ingress, and a Peering for every node of the cluster. Some are needed on
//     this node: the images that it must keep a copy of, a Routing for every service that concerns
//     it, and a Backend for every placed task of such a service. Others are named by tasks of the
//     node: revisions, secrets, configs, networks and endpoints. Each is sent before, or with, the
//     first task that names it.
//  2. The tasks that are placed on the node and are new or have changed.
//  3. References to what the node must forget: first tasks, then objects that it does not need any
//     more.
//
// A service concerns a node when it publishes a port on all nodes, or when it is on a network to
// which the node is attached. A node is attached to a network while a task on that network is
// placed on the node and has not ended.
//
// The first message of a session is complete: the worker drops all that it does not name. The next
// ones hold differences. State follows the store and says in a Dirty which nodes must look at which
// objects again. A SentSet remembers what was sent to one node, and computes the next message from
// the newest view. An object that changed several times between two messages is sent once.
//
// The package decides nothing about tasks, sends nothing, and has no goroutines. Package dispatch
// calls it: the goroutine that follows the store owns State's writes, and each session's sending
// goroutine owns its SentSet.
package assignment
