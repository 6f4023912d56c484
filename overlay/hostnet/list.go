//go:build linux

package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// Complete calls list until its result is complete, up to ten times. The kernel may report that a
// table changed during the dump; the result then lacks entries.
func Complete[T any](list func() (T, error)) (T, error) {
	for range 9 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}
