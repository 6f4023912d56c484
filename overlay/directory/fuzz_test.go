package directory

import (
	"testing"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// FuzzApply applies what a manager may send, after the checks of the worker, and reads it back. No
// message may cause a panic.
func FuzzApply(f *testing.F) {
	for _, a := range []*swarmv1.Assignment{
		{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "net", Vni: 65536}}},
		{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n1", Addr: "192.0.2.1", MeshAddresses: []string{"10.0.0.2/24"}}}},
		{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "s", Name: "web", Endpoint: &swarmv1.Endpoint{
			ServiceId: "s", VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "net", Addr: "10.0.0.3/24"}}, Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 80}},
		}}}},
		{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{TaskId: "t", ServiceId: "s", NodeId: "n1", Ready: true, Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net", Addresses: []string{"10.0.0.4/24"}}}}}},
	} {
		m := &swarmv1.Assignments{Changes: []*swarmv1.AssignmentChange{
			{Change: &swarmv1.AssignmentChange_Put{Put: a}}, {Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_BACKEND, Id: "t"}}},
		}}
		data, err := m.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		m := &swarmv1.Assignments{}
		if m.UnmarshalVT(data) != nil {
			return
		}
		clean, _ := bounds.Assignments(m)
		d := New("self")
		d.Apply(clean.GetChanges())
		d.Apply(clean.GetChanges()) // The second call changes objects that exist.
		d.SetDead(Report{Dead: []string{"n1", ""}})
		changes := d.Take()
		for id := range changes.Services {
			s, _ := d.Service(id)
			s.Networks()
			s.Meshed()
		}
		for id, tasks := range changes.Endpoints {
			d.Remote(id)
			d.RemoteOf(id, tasks)
			d.ServicesOn(id)
		}
		d.Published()
		d.MeshPeers()
		d.Self()
		d.Ingress()
		d.MarkAll()
	})
}
