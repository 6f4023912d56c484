package ca

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"swarm/internal/bounds"
	"swarm/internal/ident"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// maxCSR limits a certificate request, in bytes. One for a P-256 key has about 400 bytes.
	maxCSR = 4 << 10
	// maxBuild limits the name of a build, in bytes.
	maxBuild = 128
)

// checkHost checks the data of a host that joins. They become a row that every list shows, and
// addresses to which every node sends.
func checkHost(view *table.View, req *swarmv1.JoinRequest) error {
	if err := checkHostname(req.GetHostname()); err != nil {
		return err
	}
	if err := ident.CheckKey("machine", req.GetMachineId()); err != nil {
		return err
	}
	if p := req.GetPort(); p == 0 || p > 65535 {
		return invalid("port %d is out of range: it must be 1 to 65535", p)
	}
	if n := len(req.GetCsr()); n > maxCSR {
		return invalid("certificate request has %d bytes, at most %d are allowed", n, maxCSR)
	}
	if _, known := swarmv1.NodeSpec_Availability_name[int32(req.GetAvailability())]; !known {
		return invalid("availability %d is not known: use active, pause or drain", req.GetAvailability())
	}
	if b := req.GetBuild(); len(b) > maxBuild || !bounds.IsPlain(b) {
		return invalid("the name of the host's build has characters other than printable ASCII, or more than %d of them", maxBuild)
	}
	if err := checkAddress(view, "advertise address", "--advertise-addr", req.GetAddr()); err != nil {
		return err
	}
	if req.GetDataPathAddr() == "" {
		return nil
	}
	return checkAddress(view, "data path address", "--data-path-addr", req.GetDataPathAddr())
}

// checkPort refuses a worker whose cluster port is neither the cluster port of the cluster nor the
// port of a manager. Every node blocks the access of its containers to that port at every address,
// so a holder of the worker token must not be able to choose it. On a single machine, where nodes
// differ by their ports, containers cannot reach any of these ports.
func checkPort(view *table.View, role swarmv1.NodeSpec_Role, port uint32) error {
	common := cmp.Or(view.Cluster().GetSpec().GetNetwork().GetClusterPort(), spec.DefaultClusterPort)
	of := func(p *swarmv1.Peer) bool { return p.GetPort() == port }
	if role == swarmv1.NodeSpec_MANAGER || port == common || slices.ContainsFunc(Managers(view), of) || onLoopback(view) {
		return nil
	}
	return invalid("port %d is neither the cluster's port, %d, nor a manager's: give another with --advertise-addr, and with --listen-addr if it listens on another port", port, common)
}

func checkHostname(name string) error {
	if err := ident.CheckHostname(name); err != nil {
		return fmt.Errorf("%w: rename the host, or give its daemon another name with --hostname", err)
	}
	return nil
}

// checkAddress refuses an address at which other nodes cannot reach a host, and an address that is
// not in canonical form, because a second spelling would hide that two nodes have the same address.
// A loopback address is allowed only if all managers have one too.
func checkAddress(view *table.View, what, flag, text string) error {
	if err := ident.CheckHostAddress(what, text); err != nil {
		return fmt.Errorf("%w: give one with %s", err, flag)
	}
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return err
	case a.Unmap().String() != text:
		return invalid("%s %s must be written as %s: give it so with %s", what, text, a.Unmap(), flag)
	case a.IsLinkLocalUnicast():
		return invalid("%s %s is link-local, which other nodes cannot reach: give another with %s", what, text, flag)
	case a.IsLoopback() && !onLoopback(view):
		return invalid("%s %s is a loopback address, which other nodes cannot reach: give another with %s", what, text, flag)
	}
	return nil
}

// onLoopback reports whether the cluster runs on a single machine: all managers have loopback
// addresses.
func onLoopback(view *table.View) bool {
	for _, p := range Managers(view) {
		if a, err := netip.ParseAddr(p.GetAddr()); err != nil || !a.IsLoopback() {
			return false
		}
	}
	return true
}
