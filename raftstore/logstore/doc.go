// Package logstore owns what one manager keeps on disk for Raft: the log (raft.db, a bbolt file),
// the few values beside it such as the vote, and the snapshots. It encrypts all of them, reports
// damage before anything is read, and keeps the newest entries in memory. It does not interpret
// entries.
//
// Only package raftstore uses it. It runs no goroutines. Raft calls a Store from several
// goroutines.
package logstore
