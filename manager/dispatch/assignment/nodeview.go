package assignment

import (
	"maps"
	"slices"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// nodeView is the part of the topology that was sent to a node. The topology never changes an
// object, so an equal pointer means that the node has the newest version.
type nodeView struct {
	ingress  string // ID of the network ingress; empty when there is none
	peers    map[string]*swarmv1.Peering
	services map[string]*swarmv1.Routing
	backends map[string]map[string]*swarmv1.Backend // by service, then by task
}

func newNodeView() nodeView {
	return nodeView{
		peers: make(map[string]*swarmv1.Peering), services: make(map[string]*swarmv1.Routing),
		backends: make(map[string]map[string]*swarmv1.Backend),
	}
}

// syncTopology brings all peers and all services that concern the node up to date.
func (s *SentSet) syncTopology(m *message) {
	t := s.state.topology
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(t.peers)) {
		s.syncPeer(m, id)
	}
	for _, id := range t.servicesOf(s.node) {
		s.syncService(m, id)
	}
}

// syncRef brings one part of the topology up to date. It returns false for a reference to anything
// else.
func (s *SentSet) syncRef(m *message, r Ref) bool {
	t := s.state.topology
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch r.Kind {
	case swarmv1.AssignmentRef_PEERING:
		s.syncPeer(m, r.ID)
	case swarmv1.AssignmentRef_ROUTING:
		s.syncService(m, r.ID)
	case swarmv1.AssignmentRef_BACKEND:
		if s.view.services[r.Service] != nil && t.concerns(r.Service, s.node) {
			s.syncBackend(m, r.Service, r.ID)
		}
	case kindAttachment:
		// Services may have left the network at the same moment, and are then not among the
		// network's services. So all services that were sent to the node are compared too.
		for _, id := range slices.Sorted(maps.Keys(s.view.services)) {
			s.syncService(m, id)
		}
		if n := t.networks[r.ID]; n != nil {
			for _, id := range slices.Sorted(maps.Keys(n.services)) {
				s.syncService(m, id)
			}
		}
	default:
		return false
	}
	return true
}

// The sync functions below need the topology's lock for reading.

func (s *SentSet) syncPeer(m *message, id string) {
	was, now := s.view.peers[id], s.state.topology.peers[id]
	switch {
	case was == now:
	case now == nil:
		delete(s.view.peers, id)
		m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_PEERING, ID: id}))
	default:
		s.view.peers[id] = now
		m.objects = append(m.objects, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: now}}))
	}
}

// syncService sends a service that concerns the node together with its backends. A service that
// does not concern the node any more is removed together with its backends.
func (s *SentSet) syncService(m *message, id string) {
	was := s.view.services[id]
	if !s.state.topology.concerns(id, s.node) {
		if was == nil {
			return
		}
		for _, t := range slices.Sorted(maps.Keys(s.view.backends[id])) {
			m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: t}))
		}
		delete(s.view.backends, id)
		delete(s.view.services, id)
		m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: id}))
		return
	}
	svc := s.state.topology.services[id]
	if was != svc.routing {
		s.view.services[id] = svc.routing
		m.objects = append(m.objects, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: svc.routing}}))
	}
	sent := s.view.backends[id]
	if sent == nil {
		sent = make(map[string]*swarmv1.Backend, len(svc.backends))
		s.view.backends[id] = sent
	}
	// While the service did not concern the node, changes of its backends were not sent to it.
	for t := range svc.backends {
		s.syncBackend(m, id, t)
	}
	for t := range sent {
		s.syncBackend(m, id, t)
	}
}

func (s *SentSet) syncBackend(m *message, service, id string) {
	sent := s.view.backends[service]
	was, now := sent[id], s.state.topology.services[service].backends[id]
	switch {
	case was == now:
	case now == nil:
		delete(sent, id)
		m.removals = append(m.removals, remove(Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: id}))
	default:
		sent[id] = now
		m.objects = append(m.objects, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: now}}))
	}
}

// syncIngress sends the network ingress if it has changed. Every node needs it, even without tasks.
func (s *SentSet) syncIngress(m *message, view *table.View) {
	row, _ := view.Networks.ByName(spec.Ingress)
	if row.GetId() == s.view.ingress {
		return
	}
	if s.view.ingress != "" {
		s.release(m, []Ref{{Kind: swarmv1.AssignmentRef_NETWORK, ID: s.view.ingress}})
	}
	s.view.ingress = row.GetId()
	if s.view.ingress != "" {
		s.need(m, view, Ref{Kind: swarmv1.AssignmentRef_NETWORK, ID: s.view.ingress})
	}
}
