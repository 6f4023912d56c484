package dispatch

import (
	"maps"
	"slices"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// chart is what a node has been sent of the atlas. The atlas never changes an object: the same pointer is the same news.
type chart struct {
	ingress  string // id of the network; "": none
	peers    map[string]*swarmv1.Peering
	routes   map[string]*swarmv1.Routing
	backends map[string]map[string]*swarmv1.Backend // by service, by task
}

func newChart() chart {
	return chart{
		peers: make(map[string]*swarmv1.Peering), routes: make(map[string]*swarmv1.Routing),
		backends: make(map[string]map[string]*swarmv1.Backend),
	}
}

// whole puts all that concerns the node.
func (o *outbox) whole(d *delta, a *atlas) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(a.peers)) {
		o.peer(d, a, id)
	}
	for _, id := range a.servicesOf(o.node) {
		o.route(d, a, id)
	}
}

// look looks again at what a mark names. false: the mark is not the atlas's.
func (o *outbox) look(d *delta, a *atlas, r ref) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch r.kind {
	case swarmv1.AssignmentRef_PEERING:
		o.peer(d, a, r.id)
	case swarmv1.AssignmentRef_ROUTING:
		o.route(d, a, r.id)
	case swarmv1.AssignmentRef_BACKEND:
		if o.chart.routes[r.of] != nil && a.concerns(r.of, o.node) {
			o.backend(d, a, r.of, r.id)
		}
	case kindSegment:
		// What was there may have left the network in the same moment: all that the node has been sent is looked at.
		for _, id := range slices.Sorted(maps.Keys(o.chart.routes)) {
			o.route(d, a, id)
		}
		if s := a.segments[r.id]; s != nil {
			for _, id := range slices.Sorted(maps.Keys(s.services)) {
				o.route(d, a, id)
			}
		}
	default:
		return false
	}
	return true
}

func (o *outbox) peer(d *delta, a *atlas, id string) {
	was, now := o.chart.peers[id], a.peers[id]
	switch {
	case was == now:
	case now == nil:
		delete(o.chart.peers, id)
		d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_PEERING, id: id}))
	default:
		o.chart.peers[id] = now
		d.deps = append(d.deps, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: now}}))
	}
}

// route puts a service that concerns the node, with its backends, and takes it back with them when it does not concern it
// any more.
func (o *outbox) route(d *delta, a *atlas, id string) {
	was := o.chart.routes[id]
	if !a.concerns(id, o.node) {
		if was == nil {
			return
		}
		for _, t := range slices.Sorted(maps.Keys(o.chart.backends[id])) {
			d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_BACKEND, id: t}))
		}
		delete(o.chart.backends, id)
		delete(o.chart.routes, id)
		d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_ROUTING, id: id}))
		return
	}
	r := a.routes[id]
	if was != r.routing {
		o.chart.routes[id] = r.routing
		d.deps = append(d.deps, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: r.routing}}))
	}
	sent := o.chart.backends[id]
	if sent == nil {
		sent = make(map[string]*swarmv1.Backend, len(r.backends))
		o.chart.backends[id] = sent
	}
	// Why the service concerns the node may have changed, and with it of which backends it was told.
	for t := range r.backends {
		o.backend(d, a, id, t)
	}
	for t := range sent {
		o.backend(d, a, id, t)
	}
}

func (o *outbox) backend(d *delta, a *atlas, service, id string) {
	sent := o.chart.backends[service]
	was, now := sent[id], a.routes[service].backends[id]
	switch {
	case was == now:
	case now == nil:
		delete(sent, id)
		d.depRefs = append(d.depRefs, drop(ref{kind: swarmv1.AssignmentRef_BACKEND, id: id}))
	default:
		sent[id] = now
		d.deps = append(d.deps, put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: now}}))
	}
}

// syncIngress has every node hold network ingress, tasks or not.
func (o *outbox) syncIngress(d *delta, view *raftstore.View) {
	row, _ := view.NetworkByName(spec.Ingress)
	if row.GetId() == o.chart.ingress {
		return
	}
	if o.chart.ingress != "" {
		o.release(d, []ref{{kind: swarmv1.AssignmentRef_NETWORK, id: o.chart.ingress}})
	}
	if o.chart.ingress = row.GetId(); o.chart.ingress != "" {
		r := ref{kind: swarmv1.AssignmentRef_NETWORK, id: o.chart.ingress}
		if o.counts[r]++; o.counts[r] == 1 {
			o.send(d, view, r)
		}
	}
}
