// Package ipam owns the arithmetic of addresses: which ones a subnet has to give, which comes next, which subnet of a pool
// is free, and how the rows that hold an address are named. It refuses to know who wants one and where rows are kept: the
// taken addresses are handed to it. It is pure; the planner and the control API call it; it runs no goroutine.
//
// Addresses are given next-fit: each after the one given last, so that a freed address is the last to be given again, and
// whatever still remembers its former holder has time to forget it. Reserved in every subnet: its first address (the
// subnet's own), its gateway, and of IPv4 the last (broadcast).
package ipam
