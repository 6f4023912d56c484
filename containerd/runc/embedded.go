//go:build embedrunc

package runc

import _ "embed"

// Both files are made by `make build`.
var (
	//go:embed embed/runc
	program string // constant, as a []byte would not be: its pages can be given back
	//go:embed embed/about
	about string
)
