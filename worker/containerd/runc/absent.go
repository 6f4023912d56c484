//go:build !embedrunc

package runc

var (
	program []byte
	tags    string
)
