//go:build linux

package vswitch

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

// faultTable is a table of the netdev family. Its rules drop frames where they enter the switch.
// The bridge family would also fit, but some kernels do not have it.
const faultTable = "swarm-faults"

// Fault drops packets in one direction, except ARP. The zero value of a field matches everything.
type Fault struct {
	// From and To are names of hosts, or Machine. At least one must be set.
	From, To string
	// Protocol is "tcp", "udp" or empty.
	Protocol string
	// Port is the destination port. It needs Protocol.
	Port uint16
}

func (f Fault) validate(known map[string]Host) error {
	if f.From == "" && f.To == "" {
		return fmt.Errorf("a fault names a host: %w", errdefs.ErrInvalidArgument)
	}
	for _, name := range []string{f.From, f.To} {
		if _, ok := known[name]; name != "" && name != Machine && !ok {
			return fmt.Errorf("fault: host %s: %w", name, errdefs.ErrNotFound)
		}
	}
	if f.Protocol != "" && f.Protocol != "tcp" && f.Protocol != "udp" {
		return fmt.Errorf("fault: protocol %q: give tcp or udp: %w", f.Protocol, errdefs.ErrInvalidArgument)
	}
	if f.Port != 0 && f.Protocol == "" {
		return fmt.Errorf("fault: port %d without a protocol: %w", f.Port, errdefs.ErrInvalidArgument)
	}
	return nil
}

// SetFaults replaces all faults of the switch in one transaction. hosts are all hosts on the switch
// now. The error is ErrInvalidArgument if a fault is not valid, and ErrNotFound if it names an
// unknown host.
func (s *Switch) SetFaults(hosts []Host, faults []Fault) error {
	known := make(map[string]Host, len(hosts))
	for _, h := range hosts {
		known[h.Name] = h
	}
	for _, f := range faults {
		if err := f.validate(known); err != nil {
			return err
		}
	}
	ns, err := netns.Open(s.switchPath())
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: faultTable}
	// Deleting a table that does not exist is an error, so create it first.
	conn.AddTable(table)
	conn.DelTable(table)
	if len(faults) > 0 {
		conn.AddTable(table)
		s.program(conn, table, hosts, faults, known)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set faults (the kernel needs nf_tables with the netdev family): %w", err)
	}
	return nil
}

func (s *Switch) program(conn *nftables.Conn, table *nftables.Table, hosts []Host, faults []Fault, known map[string]Host) {
	type port struct{ host, device string }
	ports := []port{{Machine, uplinkName}}
	for _, h := range hosts {
		ports = append(ports, port{h.Name, h.port()})
	}
	for _, p := range ports {
		var chain *nftables.Chain
		for _, f := range faults {
			if (f.From != "" && f.From != p.host) || f.To == p.host {
				continue
			}
			if chain == nil {
				chain = conn.AddChain(&nftables.Chain{
					Name: p.device, Table: table, Type: nftables.ChainTypeFilter, Device: p.device,
					Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
				})
			}
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: s.match(f, known)})
		}
	}
}

func (s *Switch) match(f Fault, known map[string]Host) []expr.Any {
	// ARP passes, as it does through most firewalls. If ARP were dropped, a host would resolve an
	// address again only up to one second after the fault has ended.
	e := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_ARP)},
	}
	switch {
	case f.To == Machine:
		e = append(e,
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: s.MachineAddress().AsSlice()},
		)
	case f.To != "":
		e = append(e,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: known[f.To].MAC()},
		)
	}
	proto := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Protocol]
	if proto != 0 {
		e = append(e,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		)
	}
	if f.Port != 0 {
		e = append(e,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(f.Port)},
		)
	}
	return append(e, &expr.Verdict{Kind: expr.VerdictDrop})
}
