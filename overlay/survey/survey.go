//go:build linux

// Package survey finds out what the kernel and the firewall of the host it runs on can do and do for the network.
//
// It tries devices and rules in a network namespace that ends with the call, and otherwise only reads: nothing on the host
// is changed. It judges nothing. Caller: doctor/observe, for `swarm doctor`. Goroutines: one in each call of Kernel, on a thread
// of its own, which it waits for.
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

// Feature is something that the kernel was made to do; Err says why it did not.
type Feature struct {
	Name, Module, For string
	Err               error
}

// firstVNI is the lowest VXLAN identifier that swarm uses.
const firstVNI = 65536

// Kernel makes, in a namespace of its own, one of each device that swarm uses, and a table with rules like its own.
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

// tryRules asks for address translation, which is a module of its own, with the rules that use it.
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

// MTU of the way out of this host, in bytes.
func MTU() (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return hostnet.WayOutMTU(h)
}

// Sysctl reads a setting of the calling thread's network namespace by its full name ("net.ipv4.ip_forward"). Fixed tells
// that nobody here can write it.
func Sysctl(key string) (value string, fixed bool, err error) {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", false, err
	}
	return strings.TrimSpace(string(text)), unix.Access(path, unix.W_OK) != nil, nil
}
