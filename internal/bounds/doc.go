// Package bounds owns what may stand in a message from another machine: sizes, counts, characters and forms. A node with a
// valid certificate may be hostile, so whoever takes a message over from one passes it through here first, and uses what
// comes back.
//
// FromWorker judges what a worker sends in its session. Progress, LogRecords, DiskUsage, DiskPruned, Network and Probe judge
// what a node answers when it is asked. ToWorker judges what a manager sends to a worker. Text judges any text.
//
// The functions copy what they accept field by field: fields that this build does not know never pass. What is too long is
// cut, what is too many is left out, and what has no valid form is dropped. An error means that the message breaks the
// protocol, and that the session it came in must end.
//
// The package is pure: it knows no clock, store or connection, and runs no goroutine. What belongs to whom (whose task a
// status is about) it refuses to know; the dispatcher and the control API decide that.
package bounds
