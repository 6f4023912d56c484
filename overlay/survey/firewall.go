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

// Firewall is what the firewall of the host does to packets of containers. ForwardDrop and
// InputDrop list the base chains that drop every packet that no rule accepts, those of swarm
// included. Each is "family table chain".
type Firewall struct {
	ForwardDrop, InputDrop []string
	// Legacy reports whether iptables-legacy has a filter table. nftables does not show its rules.
	Legacy bool
	// Devices are the devices of swarm that exist, with the chains that drop their packets.
	Devices []Device
}

// Device is a network device of swarm. Dropped lists the chains that need an accept rule for it and
// have none.
type Device struct {
	Name    string
	Dropped []string
}

// ReadFirewall reads the current rules. accepts are the accept rules that swarm needs; a device is
// reported only if it exists.
func ReadFirewall(accepts ...nft.Accepts) (Firewall, error) {
	var f Firewall
	// The file is missing if the legacy modules are not loaded. Then there is no such table.
	names, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	f.Legacy = slices.ContainsFunc(bytes.Fields(names), func(name []byte) bool { return string(name) == "filter" })
	var conn nft.Conn
	err := conn.Do(f.read)
	for _, a := range accepts {
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

// device appends the device of a, if it exists.
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
