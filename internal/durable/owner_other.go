//go:build !unix

package durable

import "os"

func keepOwner(string, *os.File) {}
