// Package worker runs on every node what the managers assign to it.
//
// It owns the node's assignments and the reports about them (state.db, bbolt), the one session to a manager, and one
// loop per task over task.Step that pulls, attaches, starts, probes, stops and removes. It refuses to decide: which
// tasks a node has, and what replaces a task that ended, is the managers' business; only while out of contact with all
// of them it starts an ended task again by the restart policy. It knows no container runtime and no network: it declares
// the interfaces it needs (Runtime, Images, Executor, Network), containerd and worker/simulated implement them,
// and cmd plugs in.
//
// cmd calls New and Run, and registers the Worker as the node's swarm.v1.Worker service.
//
// Goroutines, all of them within Run: the owner of the assignments, the session (a reader, a writer, its watchdog, and who
// waits for assignments to be in force), the state writer, the log followers' loop, and for each task its loop and one for the
// action that the task is busy with.
package worker
