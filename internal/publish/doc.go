// Package publish holds the rules of published ports: which nodes answer at a port, at which
// address they answer, which keys the claims of ports have, and which claims exclude each other. It
// is pure and runs no goroutine. It stores nothing and chooses no ports. The control API chooses
// the ports of the mesh, and the node of a task chooses a port in HOST mode. Managers, nodes and
// the command line use the package.
//
// A port is published in one of three modes. With INGRESS, every node answers at the port, and the
// routing mesh forwards each connection to a node with a task. With LOCAL, only the nodes with a
// task answer: the mesh holds the port on every node, but gives a connection only to tasks of the
// same node. With HOST, each task has the port on its node, and no other task there has it.
//
// Every published port is a claim, a row with a unique key and an owner:
//
//	port/ingress/tcp/8080               a mesh port: the number that nodes use between each other
//	port/ingress/tcp/8080/192.0.2.7     the mesh, on one address
//	port/<node id>/tcp/8080             one node, on every address
//	port/<node id>/tcp/8080/192.0.2.7   one node, on one address
//
// The first claim alone also means that the mesh publishes the port on every address. A service
// that publishes the port on one address has the first two claims, or the second and a claim of
// another mesh port (see portClaims in manager/control/service).
//
// The owner of a claim of the mesh is a service. The owner of a claim of one node is a task there.
package publish
