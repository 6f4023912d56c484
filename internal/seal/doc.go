// Package seal encrypts data before it is stored. A Ring holds the data keys.
//
//   - Ring.Seal encrypts a record, such as an entry of the Raft log, with XChaCha20-Poly1305.
//   - NewWriter encrypts a stream of any length with AES-256-GCM. NewReader decrypts it.
//   - Ring.Encode returns the data keys for the key file. If the cluster is locked (autolock), the
//     unlock key of the operator encrypts them.
//
// Every record and every stream starts with a header that names its key. A new key can therefore
// replace an old one while data of the old key is still stored. The package does not know the
// meaning of the data. It does I/O only in LoadRing and through the readers and writers of the
// caller. It runs no goroutine.
package seal
