// Package ipam computes addresses: which addresses a subnet can allocate, which one is next, which
// subnet of a pool is free, and which keys the claims of addresses have. It is pure and runs no
// goroutine. It stores nothing: the caller passes the allocated addresses in. The planner and the
// control API use it.
//
// Allocation is next-fit: the next address is the first free one above the address that was
// allocated last, and after the end of the range it starts again. So a released address is not used
// again until all other free addresses were used, and caches have time to forget its former owner.
// Three addresses of a subnet are reserved: its first address, its gateway, and the IPv4 broadcast
// address.
package ipam
