//go:build embedrunc

package runc

import _ "embed"

// Both files are made by `make build`.
var (
	//go:embed embed/runc
	program string // A string is constant, unlike a []byte, so its pages can be given back.
	//go:embed embed/about
	about string
)
