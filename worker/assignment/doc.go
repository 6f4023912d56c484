// Package assignment has the objects that the managers have assigned to a node: its tasks, the
// objects that they need (revisions, secrets, configs, networks), the topology of the cluster's
// networks, the images of which the node keeps a copy, and the encryption keys.
//
// A Set applies the managers' messages and says what each changed. It checks neither the order of
// the messages (package session does) nor that the objects are well formed (package bounds does).
// It decides which objects may be written to a disk, but writes none. It starts no goroutine.
//
// Package worker applies messages and distributes the changes. The packages tasks and storage read
// the objects.
package assignment
