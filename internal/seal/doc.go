// Package seal owns the encryption of what lies on disk: Raft log entries (Ring.Seal), snapshots (NewWriter, NewReader)
// and the keys themselves under autolock (Ring.Encode). Everything is AES-256-GCM and starts with a header that names the
// key, so that keys can be rotated without rewriting what lies there. It refuses to do I/O of its own and to know what it
// seals. The replicated store calls it; it runs no goroutine.
package seal
