package assignment

import (
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/members"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// updateClaim notes which addresses nodes have on the network ingress, and returns the nodes whose
// addresses have changed.
func (t *topology) updateClaim(before, after *swarmv1.Claim) (nodes []string) {
	if node, addr, ok := meshAddress(before); ok && (after == nil || after.GetOwner() != before.GetOwner()) {
		t.mesh[node] = slices.DeleteFunc(slices.Clone(t.mesh[node]), func(o netip.Addr) bool { return o == addr })
		if len(t.mesh[node]) == 0 {
			delete(t.mesh, node)
		}
		nodes = append(nodes, node)
	}
	if node, addr, ok := meshAddress(after); ok && !slices.Contains(t.mesh[node], addr) {
		t.mesh[node] = append(slices.Clone(t.mesh[node]), addr)
		slices.SortFunc(t.mesh[node], netip.Addr.Compare)
		nodes = append(nodes, node)
	}
	return nodes
}

// meshAddress returns the node that a claim belongs to and the address. ok is false for other
// claims.
func meshAddress(c *swarmv1.Claim) (node string, addr netip.Addr, ok bool) {
	if node, ok = ipam.NodeOwner(c.GetOwner()); !ok {
		return "", addr, false
	}
	_, addr, ok = ipam.ParseKey(c.GetKey())
	return node, addr, ok
}

// updateIngress reads the subnets of the network ingress again, and with them every node's
// addresses.
func (t *topology) updateIngress(d *Dirty, view *table.View) {
	row, _ := view.Networks.ByName(spec.Ingress)
	t.subnets, _ = ipam.ParseSubnets(row.GetIpam())
	for node := range view.Nodes.All() {
		t.updatePeer(d, view, node.GetId())
	}
}

// updatePeer reads a node again. Every node receives every node.
func (t *topology) updatePeer(d *Dirty, view *table.View, id string) {
	var now *swarmv1.Peering
	if n, ok := view.Nodes.Get(id); ok {
		now = &swarmv1.Peering{
			NodeId: id, Hostname: n.GetHostname(), Addr: n.GetDataPathAddr(), Port: n.GetPort(), PublicKeys: members.KeysOf(n),
		}
		switch {
		case now.Addr == "":
			now.Addr = n.GetAddr()
		case now.Addr != n.GetAddr():
			now.Others = []string{n.GetAddr()}
		}
		for _, addr := range t.mesh[id] {
			if s, ok := t.subnets.Containing(addr); ok {
				now.MeshAddresses = append(now.MeshAddresses, s.WithPrefix(addr))
			}
		}
	}
	if t.peers[id].EqualVT(now) {
		return
	}
	t.peers[id] = now
	if now == nil {
		delete(t.peers, id)
	}
	d.all(Ref{Kind: swarmv1.AssignmentRef_PEERING, ID: id})
}
