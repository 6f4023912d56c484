//go:build embedrunc

package runc

import _ "embed"

// Both files are made by `make build`.
var (
	//go:embed embed/runc
	program []byte
	//go:embed embed/about
	about string
)
