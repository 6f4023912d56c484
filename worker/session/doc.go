// Package session keeps a node's one session with a manager: a gRPC stream that brings assignments
// and takes statuses back.
//
// A Client owns the connection attempts, the stream, the queue of statuses, and the time to which
// the lease of single-writer tasks is renewed. It refuses assignments that are out of order, older
// than what the node has applied, or not well formed. It does not act on assignments: it hands
// them to Deps.Apply.
//
// # What happens when a manager dies
//
// A session ends when its stream ends, when three heartbeats in a row have no answer, when a
// message of assignments is missing or too old, and when a report is not acknowledged for ten
// heartbeats. Run then tries the managers in random order, the lost one last, without a pause. It
// pauses (20 ms, doubling to Config.MaxBackoff, half of it random) only after it has tried all of
// them, and less as the lease of single-writer tasks runs out. Statuses that the lost manager did
// not acknowledge are sent again, once, in the next session. Tasks run on. If there is no session
// for 10 s, OutOfContact returns true, and package tasks restarts tasks that end. LeaseLeft, the
// time that single-writer tasks have, falls to 0 unless a manager confirms heartbeats; a lease that
// has run out begins again only with a new session.
//
// # Statuses
//
// Report queues the last status of each task. One report is on its way at a time, and statuses that
// come up meanwhile make the next one, so batches grow with the load and no timer delays them.
//
// # Callers and goroutines
//
// Package worker creates the Client and calls Run, Depart and Flush. Package tasks calls Report and
// the methods that wait. Package storage calls Conn. Run opens the sessions in its own goroutine.
// Each session has five more: the reader, the writer, the watchdog for heartbeats, one that waits
// until assignments are programmed, and one that ends the stream when another has failed. If
// Deps.Renewed is set, a sixth waits for the renewal of the certificate. Run waits for all of them.
package session
