//go:build linux

package survey

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// Firewall is the base chains, of others and of ours, that drop what no rule accepts, as "family table chain".
type Firewall struct {
	ForwardDrop, InputDrop []string
	// Legacy tells that iptables-legacy has a filter table, which nftables does not show.
	Legacy bool
	// Devices are those of ours that are up, with the chains that drop their packets.
	Devices []Device
}

// Device is one of ours. Dropped names the chains that have no accept rule for it, and should.
type Device struct {
	Name    string
	Dropped []string
}

// ReadFirewall lists what is in force, and which of our accept rules are not.
func ReadFirewall(ours ...nft.Accepts) (Firewall, error) {
	var f Firewall
	// Absent without the legacy modules, and then there is no such table.
	names, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	f.Legacy = slices.ContainsFunc(bytes.Fields(names), func(name []byte) bool { return string(name) == "filter" })
	var conn nft.Conn
	err := conn.Do(f.read)
	for _, a := range ours {
		if err == nil {
			err = f.device(&conn, a)
		}
	}
	return f, errors.Join(err, conn.Close())
}

func (f *Firewall) read(c *nftables.Conn) error {
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, ch := range chains {
		var list *[]string
		switch {
		case ch.Hooknum == nil || !nft.Routes(ch.Table) || ch.Type != nftables.ChainTypeFilter:
			continue
		case *ch.Hooknum == *nftables.ChainHookForward:
			list = &f.ForwardDrop
		case *ch.Hooknum == *nftables.ChainHookInput:
			list = &f.InputDrop
		default:
			continue
		}
		drops, err := nft.EndsInDrop(c, ch)
		if err != nil {
			return err
		}
		if drops {
			*list = append(*list, nft.ChainName(ch))
		}
	}
	return nil
}

// device adds one of our devices, if there is such a one.
func (f *Firewall) device(conn *nft.Conn, a nft.Accepts) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if _, err := h.LinkByName(a.Interface); err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return fmt.Errorf("device %s: %w", a.Interface, err)
	}
	dropped, err := a.Missing(conn)
	f.Devices = append(f.Devices, Device{Name: a.Interface, Dropped: dropped})
	return err
}
