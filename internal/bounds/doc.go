// Package bounds limits messages from other machines: their sizes, counts, characters and forms. A
// node with a valid certificate may be hostile. Code that receives a message from a node therefore
// passes it through this package first, and uses only the result.
//
// FromWorker checks the messages that a worker sends in its session. Progress, LogRecords, Output,
// DiskUsage, DiskPruned, Network and Probe check the answers of a node to a request. Assignments
// and Peers check what a manager sends to a worker. Text cleans any text.
//
// The functions for messages from workers copy the accepted fields one by one, so fields that this
// build does not know never pass. Texts that are too long are cut, lists that are too long are
// shortened, and values that have no valid form are dropped. An error means that the message breaks
// the protocol and that its session must end.
//
// The package is pure: it has no clock, store or connection, and runs no goroutine. It does not
// check to whom an object belongs, for example which node runs the task of a status. The dispatcher
// and the control API check that.
package bounds
