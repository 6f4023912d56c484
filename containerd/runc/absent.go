//go:build !embedrunc

package runc

var (
	program string
	about   string
)
