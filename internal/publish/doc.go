// Package publish holds the rules of published ports: who answers at a port, on which address,
// which keys the claims of ports have, and which claims exclude each other. It is pure and runs no
// goroutine. It stores nothing, and it does not choose ports: the control API and the planner do
// that. Packages on managers, nodes and in the command line use it.
//
// A port is published in one of three modes. With INGRESS and LOCAL, every node answers at the port
// and the routing mesh passes the traffic on. With HOST, only the nodes with a task of the service
// answer.
//
// Every published port is a claim, a row with a unique key and an owner:
//
//	port/ingress/tcp/8080               the mesh, on every address
//	port/ingress/tcp/8080/192.0.2.7     the mesh, on one address
//	port/<node id>/tcp/8080             one node, on every address
//	port/<node id>/tcp/8080/192.0.2.7   one node, on one address
//
// A service owns the claims of the mesh. A task owns the claims of its node.
package publish
