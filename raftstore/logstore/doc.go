// Package logstore owns the files that one manager keeps for Raft: the log and a few values such as
// the vote (raft.db, a bbolt file), and the snapshots. It encrypts the entries and the snapshots,
// reports a damaged log when it opens it, and keeps the newest entries in memory. It does not
// interpret entries.
//
// Only package raftstore uses it. It runs no goroutines. Raft calls a Store from several
// goroutines.
package logstore
