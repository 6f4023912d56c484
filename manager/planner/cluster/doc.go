// Package cluster is the planner's copy of the cluster. A State folds the rows of the store and
// their changes into nodes, services, slots, tasks and revisions that refer to each other, with the
// numbers that planning needs: reservations and task counts by node, classes of equal nodes, free
// addresses by network. It also knows which services are due, and which rows carry times by the
// clock of an earlier leader.
//
// It does not decide anything: no method chooses a node, creates a task or writes a row. It has no
// clock, goroutine or socket. Only New and Apply know the store.
//
// The leader's loop in package manager creates a State and applies every committed change to it.
// Packages planner and placement read it. All of them run in one goroutine. Fields of the types in
// this package are exported for reading: only this package changes them, through Apply and through
// a Draft, which adds the reservations and addresses of the current plan until the plan ends.
//
// Rows may arrive in any order. An object that a row names before its own row has arrived has a nil
// Row, and so has an object whose row was deleted while others still name it.
package cluster
