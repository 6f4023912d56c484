// Package session keeps a node's one session with a manager: a gRPC stream that brings assignments
// and takes statuses back.
//
// A Client owns the connection attempts, the stream, the queue of statuses, and the time to which
// the lease of single-writer tasks is renewed. It ends a session whose assignments are out of order
// or older than what the node has applied, and skips assignments that are not well formed. It does
// not act on assignments: it hands them to Deps.Apply.
//
// # What happens when a manager dies
//
// A session ends when its stream ends, when three heartbeats in a row have no answer, when a
// message of assignments is missing or too old, or when a report is not acknowledged for more than
// ten heartbeats. Run then tries the managers in random order, the lost one last, without a pause.
// It pauses (20 ms, doubling to Config.MaxBackoff, half of it random) only after it has tried all
// of them. The pauses get shorter as the lease of single-writer tasks runs out. The next session
// sends the statuses again that the lost manager did not acknowledge. Tasks run on. If there is no
// session for 10 s, OutOfContact returns true, and package tasks restarts tasks that end.
// LeaseLeft, the time for which single-writer tasks may still run, falls to 0 unless a manager
// confirms heartbeats. A lease that has run out begins again only with a new session.
//
// # Statuses
//
// Report queues the last status of each task. One report is on its way at a time, and the statuses
// that tasks report in the meantime go into the next one. So batches grow with the load, and no
// timer delays them.
//
// # Callers and goroutines
//
// Package worker creates the Client and calls Run, AnnounceDeparture and Flush. Package tasks calls
// Report and the methods that wait. Package storage calls Conn. Run opens the sessions in its own
// goroutine. Each session has five more: the reader, the writer, the watchdog for heartbeats, one
// that waits until assignments are programmed, and one that ends the stream when another has
// failed. If Deps.Renewed is set, a sixth waits for the renewal of the certificate. Run waits for
// all of them.
package session
