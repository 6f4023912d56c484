// Package watch publishes the views of one replica and lets readers follow its changes: a Broker
// keeps the newest view and a bounded history of changes, and a Watcher reads that history in order
// and without gaps.
//
// Package raftstore publishes after each batch of log entries. Callers of a Store use the Watchers
// that it returns. The package runs no goroutines.
package watch
