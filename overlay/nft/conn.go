//go:build linux

// Package nft is what the overlay's packages share of nftables: a connection that lasts, elements in portions that fit
// a message, and the expressions of which rules are made.
//
// It owns no table. Callers: overlay/bridge, overlay/vip, overlay/mesh. No goroutines.
package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"swarm/overlay/netns"
)

// Conn is a connection to the nftables of one namespace. It is dialled with its first use and kept: closing one waits until the
// kernel has destroyed what was deleted through any (10 ms), and a dial costs as much as a change. Not for several goroutines.
type Conn struct {
	// Netns is the pin of the namespace; empty is that of the calling thread. While a connection is open, the namespace
	// lives on: Close it with the last use.
	Netns string

	lasting *nftables.Conn
}

// Do runs fn. After an error nobody knows which answers are still to come: the next call dials again.
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

// buffers hold a batch of tens of thousands of elements, and its answers. They are limits; memory is taken as needed.
func buffers(c *netlink.Conn) error {
	return errors.Join(c.SetWriteBuffer(32<<20), c.SetReadBuffer(8<<20))
}

// Close hangs up; Do dials again.
func (c *Conn) Close() error {
	if c.lasting == nil {
		return nil
	}
	err := c.lasting.CloseLasting()
	c.lasting = nil
	return err
}

// Exists tells whether there is a table of that family and name.
func Exists(c *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(all, func(o *nftables.Table) bool { return o.Name == t.Name }), nil
}

// Renew queues an empty table in place of the one that there may be. It comes first in its batch. What is not there is not
// deleted: whoever closes a connection in the namespace next would wait for it.
func Renew(c *nftables.Conn, t *nftables.Table) error {
	there, err := Exists(c, t)
	if err != nil {
		return err
	}
	c.AddTable(t)
	if there {
		c.DelTable(t) // Added before, it is there whatever others do meanwhile.
		c.AddTable(t)
	}
	return nil
}

// portion is how many elements go into one message: their list is an attribute, and its length has 16 bits.
const portion = 500

// AddElements and DeleteElements queue changes of a set or map.
func AddElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inPortions(elements, func(e []nftables.SetElement) error { return c.SetAddElements(s, e) })
}

// DeleteElements is the opposite of AddElements. An element that is not there fails the whole batch.
func DeleteElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inPortions(elements, func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) })
}

func inPortions(elements []nftables.SetElement, apply func([]nftables.SetElement) error) error {
	for e := range slices.Chunk(elements, portion) {
		if err := apply(e); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	return nil
}
