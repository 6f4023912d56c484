//go:build !embedrunc

package runc

var (
	program []byte
	about   string
)
