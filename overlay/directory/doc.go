// Package directory is what a node knows of the cluster's networks: who is on
// them, what services they offer, and where the other nodes are.
//
// It is fed with the managers' assignments and with which nodes are dead,
// and answers with values ready to be programmed. A dead node gives no backends
// (see dead.go for when the report is not believed), so
// that this works without a manager. It remembers what changed since somebody
// last asked. Nothing here touches the kernel, the disk or a clock, and no
// goroutine runs. Caller: package plane.
package directory
