//go:build linux

package containerd_test

import swarmv1 "swarm/proto/swarm/v1"

func limits(nano, memory, pids int64) *swarmv1.Resources {
	return &swarmv1.Resources{NanoCpus: nano, MemoryBytes: memory, Pids: pids}
}
