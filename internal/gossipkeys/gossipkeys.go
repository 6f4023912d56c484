// Package gossipkeys decides how the keys that encrypt the gossip of a cluster change. A new key
// goes through three stages: nodes receive it and only decrypt with it; then they encrypt with it;
// after the next key has replaced it, they only decrypt with it for a while. No stage waits for a
// node. A node that was away receives the keys in its session with a manager, which does not use
// gossip.
//
// The package is pure. The leader uses it to write the keys, and nodes use it to choose among them.
package gossipkeys

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// Subsystem is the subsystem of gossip keys among the encryption keys of the cluster.
const Subsystem = "gossip"

const (
	// Period is how long a key encrypts before the next one is made.
	Period = 12 * time.Hour
	// Settle is the time between the creation of a key and its first use for encryption. In that
	// time, sessions bring it to all nodes.
	Settle = 10 * time.Second
	// Retain is how long a replaced key still decrypts.
	Retain = 10 * time.Minute
	// maxKeys limits the keys of a cluster from which many nodes are removed in a short time.
	maxKeys = 6
)

// First returns the first key of a new cluster.
func First(key []byte, now time.Time) *swarmv1.EncryptionKey {
	return &swarmv1.EncryptionKey{Subsystem: Subsystem, Key: key, LamportTime: 1, Since: timestamppb.New(now)}
}

// Replace returns the keys with a new standby key. It drops an older standby key, because a node
// that is being removed may have received it.
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

// Step returns the keys for the time now, and the time until they next change. It uses fresh if a
// new key is due. Keys that do not change are returned as they were given.
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

// Order returns the gossip keys among all: first the key that encrypts, then the replaced keys,
// newest first, then the standby key.
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
