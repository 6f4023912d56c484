//go:build linux

package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// Complete asks again when a change of the kernel's tables came in between its answers, which then say too little.
func Complete[T any](list func() (T, error)) (T, error) {
	for range 9 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}
