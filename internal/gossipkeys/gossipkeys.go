// Package gossipkeys decides how the keys that encrypt a cluster's gossip change. A new key is
// handed out first, and nodes decrypt with it; then they encrypt with it; the former one decrypts
// for a while yet. No step waits for a node: one that was away is told the keys in its session with
// a manager, which does not need them.
//
// It is pure. Callers: the leader, which writes the keys, and nodes, which use them.
package gossipkeys

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// Subsystem marks the keys of gossip among the cluster's.
const Subsystem = "gossip"

const (
	// Period is how long a key encrypts before the next one is made.
	Period = 12 * time.Hour
	// Settle is how long a new key is known before it encrypts: sessions carry it to all nodes
	// meanwhile.
	Settle = 10 * time.Second
	// Retain is how long the former keys decrypt.
	Retain = 10 * time.Minute
	// maxKeys bounds the keys of a cluster that removes node after node.
	maxKeys = 6
)

// First is the key of a new cluster.
func First(key []byte, now time.Time) *swarmv1.EncryptionKey {
	return &swarmv1.EncryptionKey{Subsystem: Subsystem, Key: key, LamportTime: 1, Since: timestamppb.New(now)}
}

// Replace returns the keys with a new one on standby. One that was on standby goes: a node that is
// removed at this moment may have been told of it.
func Replace(keys []*swarmv1.EncryptionKey, fresh []byte, now time.Time) []*swarmv1.EncryptionKey {
	var newest uint64
	for _, k := range keys {
		newest = max(newest, k.GetLamportTime())
	}
	next := slices.DeleteFunc(slices.Clone(keys), func(k *swarmv1.EncryptionKey) bool { return k.GetStandby() })
	next = append(next, &swarmv1.EncryptionKey{
		Subsystem: Subsystem, Key: fresh, LamportTime: newest + 1, Since: timestamppb.New(now), Standby: true,
	})
	next = Order(next)
	if standby := len(next) - 1; len(next) > maxKeys {
		next = append(next[:maxKeys-1], next[standby])
	}
	return next
}

// Step returns the keys as they are to be now, and how long they stay so. fresh is used if a new
// key is due. Keys that are not changed are returned as they were given.
func Step(keys []*swarmv1.EncryptionKey, fresh []byte, now time.Time) (next []*swarmv1.EncryptionKey, wait time.Duration) {
	next = Order(keys)
	if len(next) == 0 {
		return next, Period
	}
	age := func(k *swarmv1.EncryptionKey) time.Duration { return now.Sub(k.GetSince().AsTime()) }
	if last := next[len(next)-1]; last.GetStandby() && age(last) >= Settle {
		last = last.CloneVT()
		last.Standby, last.Since = false, timestamppb.New(now)
		next = Order(append(next[:len(next)-1:len(next)-1], last))
	}
	primary, last := next[0], next[len(next)-1]
	if !last.GetStandby() && age(primary) >= Period {
		next = Replace(next, fresh, now)
		last = next[len(next)-1]
	}
	if age(primary) >= Retain {
		next = slices.DeleteFunc(next, func(k *swarmv1.EncryptionKey) bool { return k != primary && !k.GetStandby() })
	}
	wait = Period - age(primary)
	if last.GetStandby() {
		wait = Settle - age(last)
	}
	if slices.ContainsFunc(next, func(k *swarmv1.EncryptionKey) bool { return k != primary && !k.GetStandby() }) {
		wait = min(wait, Retain-age(primary))
	}
	return next, wait
}

// Order sorts the keys of gossip among others: first the one that encrypts, then those that it
// followed, the newest first, then the one on standby.
func Order(all []*swarmv1.EncryptionKey) []*swarmv1.EncryptionKey {
	own := slices.DeleteFunc(slices.Clone(all), func(k *swarmv1.EncryptionKey) bool { return k.GetSubsystem() != Subsystem })
	slices.SortFunc(own, func(a, b *swarmv1.EncryptionKey) int {
		if a.GetStandby() != b.GetStandby() {
			if a.GetStandby() {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.GetLamportTime(), a.GetLamportTime())
	})
	return own
}
