// Package ipam computes addresses: which addresses a subnet can allocate, which one is next, which
// subnet of a pool is free, and which keys the claims of addresses have. It is pure and runs no
// goroutine. It stores nothing: the caller passes the allocated addresses in. The planner and the
// control API use it.
//
// Allocation is next-fit: every address comes after the one that was allocated last. A released
// address is therefore the last to be used again, so that caches have time to forget its former
// holder. In every subnet the subnet's own address, its gateway and the IPv4 broadcast address are
// reserved.
package ipam
