package object

import (
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// ResolveFilter returns a copy of the filter in which the ids of services and nodes replace the
// names that the user wrote. It returns an error if a name refers to no object, or to several.
func ResolveFilter(v *table.View, f *swarmv1.Filter) (*swarmv1.Filter, error) {
	if len(f.GetServiceIds()) == 0 && len(f.GetNodeIds()) == 0 {
		return f, nil
	}
	f = f.CloneVT()
	for i, ref := range f.GetServiceIds() {
		svc, err := Services().Find(v, ref)
		if err != nil {
			return nil, err
		}
		f.ServiceIds[i] = svc.GetId()
	}
	for i, ref := range f.GetNodeIds() {
		node, err := Nodes().Find(v, ref)
		if err != nil {
			return nil, err
		}
		f.NodeIds[i] = node.GetId()
	}
	return f, nil
}
