package object

import (
	"fmt"
	"iter"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Networks describes overlay networks. Their names are unique without regard to case.
func Networks() crud.Kind[*swarmv1.Network] {
	name := func(n *swarmv1.Network) string { return n.GetSpec().GetName() }
	return crud.Kind[*swarmv1.Network]{
		Word: "network", ListCommand: "swarm network ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Network] { return v.Networks },
		TableID: table.Network,
		Name:    func(_ *table.View, n *swarmv1.Network) string { return name(n) },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Network] {
			return crud.One(v.Networks.ByName(name))
		},
		Attributes: func(_ *table.View, n *swarmv1.Network) map[string]string {
			return map[string]string{"name": name(n), "type": n.GetSpec().GetDriverConfig().GetName()}
		},
		Subject: func(_ *table.View, n *swarmv1.Network) crud.Subject {
			return crud.Subject{ID: n.GetId(), Names: []string{name(n)}, Labels: []map[string]string{n.GetSpec().GetLabels()}}
		},
		Compare: crud.ByName(name),
		Taken: func(name string, other *swarmv1.Network) string {
			return fmt.Sprintf("network with name %s already exists (%s): choose another name", name, other.GetId())
		},
		Claims: networkClaims,
	}
}

// networkClaims returns the keys of a network's VXLAN network identifier, and of the cursors of its
// subnets.
func networkClaims(v *table.View, n *swarmv1.Network) []string {
	keys := []string{VNIKey(n.GetVni())}
	for c := range v.Claims.Prefix("next/" + n.GetId() + "/") {
		keys = append(keys, c.GetKey())
	}
	return keys
}

// VNIKey returns the key of the claim of a VXLAN network identifier.
func VNIKey(vni uint32) string { return fmt.Sprintf("vni/%d", vni) }
