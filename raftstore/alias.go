package raftstore

import "swarm/raftstore/logstore"

// The names below have moved. They stay until the packages that use them name the new ones.
type (
	Sealer = logstore.Sealer
	Disk   = logstore.Disk
)
