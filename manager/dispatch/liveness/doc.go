// Package liveness decides, on the leader, which nodes are up.
//
// Workers have sessions with any manager. Each manager reports its sessions to the leader twice in
// every heartbeat period, with the age of the last heartbeat by its own clock, and says how
// sessions have ended. The Tracker gathers these reports, adds what the membership gossip says of
// each node, and writes the state that follows into the rows of the nodes. Judge is the whole rule,
// a pure function of the Evidence.
//
// The package concludes nothing from gossip alone, because a firewall that blocks the gossip port
// must not evict a working host. It knows no streams and no workers; package dispatch serves
// the sessions and calls the Tracker. Two goroutines run inside Lead, which the manager calls for
// as long as it leads. No other goroutines exist.
package liveness
