//go:build linux

// Package survey reads what the host's kernel and firewall support and do for the network.
//
// It creates devices and rules only in a network namespace that ends with the call. Outside of it,
// it only reads, so it changes nothing on the host. It reports facts and leaves the conclusions to
// the caller. Caller: cmd/swarm, for `swarm doctor`. Goroutines: one in each call of Kernel, on a
// thread of its own. Kernel waits for it.
package survey

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// Feature is one kernel feature that Kernel tried to use. Err is nil if it worked. Module is the
// kernel module that has the feature, and For is its use in swarm.
type Feature struct {
	Name, Module, For string
	Err               error
}

// firstVNI is the lowest VXLAN network identifier that swarm uses.
const firstVNI = 65536

// Kernel tests the kernel features that swarm uses: it creates a device of each type, and a table
// with rules like those of swarm, in a new network namespace. It needs root. If it cannot test
// anything, the error says why.
func Kernel() ([]Feature, error) {
	var features []Feature
	err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		attrs := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name} }
		features = []Feature{
			{"VXLAN", "vxlan", "overlay networks between hosts", h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs("vxlan0"), VxlanId: firstVNI, Port: 4789})},
			{"bridge", "bridge", "networks of containers", h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs("bridge0")})},
			{"veth", "veth", "networks of containers", h.LinkAdd(&netlink.Veth{LinkAttrs: attrs("veth0"), PeerName: "veth1"})},
			{"nftables", "nf_tables", "published ports and ways out of containers", tryRules()},
		}
		return nil
	})
	return features, err
}

// tryRules creates a chain for address translation, which is a separate kernel module, and the
// expressions that swarm uses there.
func tryRules() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "doctor", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{
		Name: "way-out", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM},
		&expr.Masq{},
	}})
	return c.Flush()
}

// MTU returns the MTU in bytes of the interface with the IPv4 default route. Without a default
// route it is the smallest MTU of the interfaces, see hostnet.WayOutMTU.
func MTU() (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return hostnet.WayOutMTU(h)
}

// Sysctl reads a setting of the calling thread's network namespace. key is the full name, for
// example "net.ipv4.ip_forward". fixed reports that this process may not write the setting.
func Sysctl(key string) (value string, fixed bool, err error) {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", false, err
	}
	return strings.TrimSpace(string(text)), unix.Access(path, unix.W_OK) != nil, nil
}
