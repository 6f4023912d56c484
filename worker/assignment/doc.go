// Package assignment has the objects that the managers have assigned to a node: its tasks, what
// they are made of (revisions, secrets, configs, networks), the topology of the cluster's networks,
// the images that it keeps a copy of, and the encryption keys.
//
// A Set applies the managers' messages and says what each changed. It checks neither the order of
// the messages (package session does) nor that the objects are well formed (package bounds does).
// It decides which objects may be written to a disk, but writes none. It starts no goroutine.
//
// Package worker applies messages and distributes the changes. The packages tasks and storage read
// the objects.
package assignment
