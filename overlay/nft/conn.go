//go:build linux

// Package nft has the nftables code that the overlay's packages share: a connection that stays
// open, batches of set elements that fit a netlink message, and the expressions of which rules
// consist.
//
// The package owns no table and starts no goroutines. Its callers are overlay/bridge, overlay/vip
// and overlay/mesh.
package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"swarm/overlay/netns"
)

// Conn is a connection to the nftables of one network namespace. The first call of Do opens it. It
// stays open until Close, for two reasons. Closing a connection waits until the kernel has
// destroyed all deleted objects (10 ms), also those that other connections deleted. Opening a
// connection costs as much as a change. Only one goroutine at a time may use a Conn.
type Conn struct {
	// Netns is the path of the namespace's pin. If it is empty, the connection is to the namespace
	// of the calling thread. An open connection keeps the namespace alive, so call Close after the
	// last use.
	Netns string

	lasting *nftables.Conn
}

// Do runs fn with the open connection. If fn fails, Do closes the connection, because answers to
// earlier requests may still arrive on it. The next call opens a new one.
func (c *Conn) Do(fn func(*nftables.Conn) error) error {
	if c.lasting == nil {
		if err := c.dial(); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	if err := fn(c.lasting); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

func (c *Conn) dial() (err error) {
	options := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(buffers)}
	if c.Netns != "" {
		ns, err := netns.Open(c.Netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		options = append(options, nftables.WithNetNSFd(ns.FD()))
	}
	c.lasting, err = nftables.New(options...)
	return err
}

// buffers sets the socket buffers for a batch of tens of thousands of elements and its answers. The
// sizes are limits; the kernel allocates memory as needed.
func buffers(c *netlink.Conn) error {
	return errors.Join(c.SetWriteBuffer(32<<20), c.SetReadBuffer(8<<20))
}

// Close closes the connection. A later call of Do opens a new one.
func (c *Conn) Close() error {
	if c.lasting == nil {
		return nil
	}
	err := c.lasting.CloseLasting()
	c.lasting = nil
	return err
}

// Exists reports whether a table with the family and the name of t exists.
func Exists(c *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(all, func(o *nftables.Table) bool { return o.Name == t.Name }), nil
}

// Renew queues the replacement of a table by an empty one, or its creation. Call it first in a
// batch. It queues no deletion if the table does not exist: after a deletion the next close of a
// connection in the namespace has to wait.
func Renew(c *nftables.Conn, t *nftables.Table) error {
	there, err := Exists(c, t)
	if err != nil {
		return err
	}
	c.AddTable(t)
	if there {
		c.DelTable(t) // This cannot fail: AddTable creates the table again if another program has deleted it.
		c.AddTable(t)
	}
	return nil
}

// elementsPerMessage is the number of set elements in one message. The list of elements is a
// netlink attribute, whose length has 16 bits.
const elementsPerMessage = 500

// AddElements queues new elements of a set or map.
func AddElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(e []nftables.SetElement) error { return c.SetAddElements(s, e) })
}

// DeleteElements queues the deletion of elements. The whole batch fails if an element does not
// exist.
func DeleteElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) })
}

func inChunks(elements []nftables.SetElement, apply func([]nftables.SetElement) error) error {
	for e := range slices.Chunk(elements, elementsPerMessage) {
		if err := apply(e); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	return nil
}
