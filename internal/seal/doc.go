// Package seal encrypts the data that is stored on disk: Raft log entries (Ring.Seal), snapshots
// (NewWriter, NewReader), and, under autolock, the data keys themselves (Ring.Encode). Records are
// encrypted with XChaCha20-Poly1305, the chunks of streams with AES-256-GCM. Everything sealed
// starts with a header that names its key, so keys can be rotated without rewriting the stored
// data. The package does not know the meaning of the data. Its only I/O is LoadRing and the readers
// and writers of the caller. The replicated store calls it. It runs no goroutine.
package seal
