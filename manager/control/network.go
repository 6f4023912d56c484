package control

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// VXLAN network identifiers: 24 bits. Below 65536 is left to others on the same hosts: Docker Swarm begins at 4096.
	firstVNI, lastVNI = 1 << 16, 1<<24 - 1
	// vniCursor is the row that says which identifier was given last.
	vniCursor = "next/vni"
)

// CreateNetwork writes a network, with the subnets that it leaves open chosen from the cluster's pools.
func (s *Server) CreateNetwork(ctx context.Context, req *swarmv1.CreateNetworkRequest) (*swarmv1.NetworkInfo, error) {
	wanted, err := spec.Network(req.GetSpec())
	if err != nil {
		return nil, err
	}
	if wanted.GetIngress() {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the cluster makes network ingress by itself: leave --ingress out")
	}
	if wanted.GetInternal() && wanted.GetHostAccess() {
		return nil, errdefs.ErrInvalidArgument.WithMessage(
			fmt.Sprintf("network %s is internal, and so its containers reach no node: leave --internal or --host-access out", wanted.GetName()))
	}
	if ident.Fold(wanted.GetName()) == spec.Ingress {
		return nil, errdefs.ErrInvalidArgument.WithMessage("network ingress is the cluster's own: choose another name")
	}
	id, random := ident.NewID(), ulaBits()
	_, err = s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		if other, taken := v.NetworkByName(wanted.GetName()); taken {
			if had := other.GetSpec().GetName(); had != wanted.GetName() {
				return nil, sameButForCase("network", wanted.GetName(), had, other.GetId(), "")
			}
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("network with name %s already exists (%s): choose another name", wanted.GetName(), other.GetId()))
		}
		return newNetwork(v, id, wanted, random)
	})
	if err != nil {
		return nil, fmt.Errorf("create network %s: %w", wanted.GetName(), err)
	}
	s.log.Info("network created", "network", id, "name", wanted.GetName(), "actor", actor(ctx))
	info, err := s.GetNetwork(ctx, &swarmv1.GetRequest{Id: id})
	if err == nil {
		info.Warnings = overlaps(s.store.View(), info.GetNetwork())
	}
	return info, err
}

// overlaps warns of ranges that nodes lead to, or other networks have, and the network takes: its containers look for them
// there.
func overlaps(v *raftstore.View, n *swarmv1.Network) (out []string) {
	for _, c := range n.GetIpam().GetConfigs() {
		subnet, err := netip.ParsePrefix(c.GetSubnet())
		if err != nil {
			continue
		}
		for other := range v.Networks.All() {
			for _, o := range other.GetIpam().GetConfigs() {
				if p, err := netip.ParsePrefix(o.GetSubnet()); err == nil && other.GetId() != n.GetId() && p.Overlaps(subnet) {
					out = append(out, fmt.Sprintf("subnet %s overlaps %s of network %s: a task that is on both networks reaches those addresses on one of them alone; choose another --subnet",
						subnet, p, other.GetSpec().GetName()))
				}
			}
		}
		nodes := map[string][]string{} // by the range
		for st := range v.NodeStates.All() {
			for _, text := range st.GetDescription().GetRouted() {
				if p, err := netip.ParsePrefix(text); err == nil && p.Overlaps(subnet) {
					nodes[text] = append(nodes[text], nodeName(v, st.GetNodeId()))
				}
			}
		}
		for _, text := range slices.Sorted(maps.Keys(nodes)) {
			who := "node " + slices.Min(nodes[text]) + " leads"
			if more := len(nodes[text]) - 1; more > 0 {
				who = fmt.Sprintf("node %s and %d more lead", slices.Min(nodes[text]), more)
			}
			out = append(out, fmt.Sprintf("subnet %s overlaps %s, which %s to: containers on network %s neither reach nor answer who is there; choose another --subnet",
				subnet, text, who, n.GetSpec().GetName()))
		}
	}
	return out
}

func ulaBits() (out [5]byte) {
	copy(out[:], ident.RandomBytes(len(out)))
	return out
}

// newNetwork is the rows of a network. Two that are made at the same time want the same identifier: one is made again,
// and sees the other's subnet.
func newNetwork(v *raftstore.View, id string, sp *swarmv1.NetworkSpec, random [5]byte) ([]*swarmv1.Change, error) {
	options, err := subnets(v, sp, random)
	if err != nil {
		return nil, err
	}
	vni, claims, err := nextVNI(v, id)
	if err != nil {
		return nil, err
	}
	row := &swarmv1.Network{Id: id, Spec: sp, Vni: vni, Ipam: options}
	return append(claims, raftstore.Create(row)), nil
}

func nextVNI(v *raftstore.View, network string) (uint32, []*swarmv1.Change, error) {
	row, _ := v.Claims.Get(vniCursor)
	last, _ := strconv.ParseUint(row.GetOwner(), 10, 32)
	vni := uint32(last)
	for range v.Networks.Len() + 1 { // each network holds one
		if vni++; vni < firstVNI || vni > lastVNI {
			vni = firstVNI
		}
		key := fmt.Sprintf("vni/%d", vni)
		if _, taken := v.Claims.Get(key); taken {
			continue
		}
		return vni, []*swarmv1.Change{
			raftstore.Create(&swarmv1.Claim{Key: key, Owner: network}),
			raftstore.Put(&swarmv1.Claim{Key: vniCursor, Owner: strconv.FormatUint(uint64(vni), 10)}),
		}, nil
	}
	return 0, nil, errdefs.ErrResourceExhausted.WithMessage("no VXLAN network identifier is left: remove networks that are not used with `swarm network prune`")
}

// subnets completes the subnets of a network: IPv4 from the pools, IPv6 a random unique local one.
func subnets(v *raftstore.View, sp *swarmv1.NetworkSpec, random [5]byte) (*swarmv1.IPAMOptions, error) {
	out := sp.GetIpam().CloneVT()
	if out == nil {
		out = &swarmv1.IPAMOptions{}
	}
	has := map[bool]bool{}
	for _, c := range out.GetConfigs() {
		p, err := netip.ParsePrefix(c.GetSubnet())
		if err != nil {
			return nil, err
		}
		has[p.Addr().Is4()] = true
	}
	if !has[true] {
		p, err := fromPool(v)
		if err != nil {
			return nil, err
		}
		out.Configs = slices.Insert(out.Configs, 0, &swarmv1.IPAMConfig{Subnet: p.String()})
	}
	if !has[false] && sp.GetIpv6Enabled() {
		out.Configs = append(out.Configs, &swarmv1.IPAMConfig{Subnet: ipam.ULAPrefix(random).String()})
	}
	plan, err := ipam.ParseSubnets(out)
	if err != nil {
		return nil, err
	}
	for _, c := range out.Configs {
		for _, sub := range plan {
			if c.GetSubnet() == sub.Prefix().String() {
				c.Gateway = sub.Gateway().String()
			}
		}
	}
	return out, nil
}

// fromPool chooses a subnet that no other network has and no node routes elsewhere. When the routes of workers leave none,
// only those of managers count: a worker that is misconfigured, or lies, must not keep networks from being made, and the
// creator is warned of the overlap.
func fromPool(v *raftstore.View) (netip.Prefix, error) {
	defaults := v.Cluster().GetSpec().GetNetwork()
	var pools, taken []netip.Prefix
	for _, text := range defaults.GetDefaultAddrPool() {
		if p, err := netip.ParsePrefix(text); err == nil {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		pools = []netip.Prefix{netip.MustParsePrefix(spec.DefaultAddrPool)}
	}
	size := int(defaults.GetSubnetSize())
	if size == 0 {
		size = spec.DefaultSubnetSize
	}
	for n := range v.Networks.All() {
		for _, c := range n.GetIpam().GetConfigs() {
			if p, err := netip.ParsePrefix(c.GetSubnet()); err == nil {
				taken = append(taken, p)
			}
		}
	}
	managers, workers := routed(v)
	taken = append(taken, managers...)
	p, ok := ipam.ChooseSubnet(pools, size, append(slices.Clone(taken), workers...))
	if !ok {
		p, ok = ipam.ChooseSubnet(pools, size, taken)
	}
	if !ok {
		texts := make([]string, len(pools))
		for i, p := range pools {
			texts[i] = p.String()
		}
		return p, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(
			"no subnet of size /%d is left in the address pool %s: %d networks and the routes of the nodes take all: name one with --subnet, or remove networks with `swarm network prune`",
			size, strings.Join(texts, ", "), v.Networks.Len()))
	}
	return p, nil
}

// routed are the ranges that the cluster's nodes lead elsewhere.
func routed(v *raftstore.View) (managers, workers []netip.Prefix) {
	for st := range v.NodeStates.All() {
		row, _ := v.Nodes.Get(st.GetNodeId())
		for _, text := range st.GetDescription().GetRouted() {
			p, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
			case row.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER:
				managers = append(managers, p)
			default:
				workers = append(workers, p)
			}
		}
	}
	return managers, workers
}

// localNetworks are the built-in networks as the lists show them, with Docker's drivers.
func localNetworks() []*swarmv1.NetworkInfo {
	var out []*swarmv1.NetworkInfo
	for _, name := range spec.LocalNetworks() {
		driver := name
		if name == "none" {
			driver = "null"
		}
		out = append(out, &swarmv1.NetworkInfo{Network: &swarmv1.Network{
			Id: name, Spec: &swarmv1.NetworkSpec{Name: name, DriverConfig: &swarmv1.Driver{Name: driver}},
		}})
	}
	return out
}

// RemoveNetwork removes a network that nothing uses.
func (s *Server) RemoveNetwork(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if spec.LocalNetwork(req.GetId()) {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("network %s is built in, every node has it: it cannot be removed", req.GetId()))
	}
	found, err := findNetwork(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.removeNetwork(ctx, found); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("remove network %s: %w", found.GetSpec().GetName(), err)
	}
	return &swarmv1.RemoveResponse{}, nil
}

func (s *Server) removeNetwork(ctx context.Context, found *swarmv1.Network) error {
	if found.GetSpec().GetIngress() {
		return errdefs.ErrPermissionDenied.WithMessage("published ports need it: it cannot be removed")
	}
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	_, err := s.write(ctx, 0, func(v *raftstore.View) ([]*swarmv1.Change, error) {
		n, ok := v.Networks.Get(found.GetId())
		if !ok {
			return nil, nil
		}
		if users := usersOf(v, n.GetId()); len(users) > 0 {
			return nil, inUse(n, users)
		}
		changes := []*swarmv1.Change{raftstore.Delete(n), raftstore.DeleteKey(raftstore.TableClaim, fmt.Sprintf("vni/%d", n.GetVni()))}
		for c := range v.Claims.Prefix("next/" + n.GetId() + "/") {
			changes = append(changes, raftstore.DeleteKey(raftstore.TableClaim, c.GetKey()))
		}
		return changes, nil
	})
	if err == nil {
		s.log.Info("network removed", "network", found.GetId(), "name", found.GetSpec().GetName(), "actor", actor(ctx))
	}
	return err
}

// inUseNamed is how many services a refusal names.
const inUseNamed = 5

func inUse(n *swarmv1.Network, users []*swarmv1.Service) error {
	var names, ids []string
	for _, svc := range users {
		names, ids = append(names, svc.GetName()), append(ids, svc.GetId())
	}
	slices.Sort(names)
	text := strings.Join(names[:min(inUseNamed, len(names))], ", ")
	if more := len(names) - inUseNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	word := "service"
	if len(names) > 1 {
		word = "services"
	}
	if allLeaving(users) {
		return leaving{fmt.Sprintf("it is in use by %s %s, still being removed: try again when the tasks have stopped", word, text), ids}
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("it is in use by %s %s: remove what uses it, or take it off the network with `swarm service update --network-rm %s %s`",
		word, text, n.GetSpec().GetName(), names[0]))
}

// usersOf are the services that are on a network, or have a task that still is.
func usersOf(v *raftstore.View, network string) []*swarmv1.Service {
	var out []*swarmv1.Service
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		if onNetwork(rev, network) || hasTaskOn(v, svc.GetId(), network) {
			out = append(out, svc)
		}
	}
	return out
}

func onNetwork(rev *swarmv1.Revision, network string) bool {
	return slices.ContainsFunc(rev.GetSpec().GetTaskTemplate().GetNetworks(), func(n *swarmv1.NetworkAttachmentConfig) bool {
		return n.GetTarget() == network
	})
}

func hasTaskOn(v *raftstore.View, service, network string) bool {
	for t := range v.TasksOfService(service) {
		if attached(t, network) && live(v, t) {
			return true
		}
	}
	return false
}

// PruneNetworks removes the networks that nothing uses.
func (s *Server) PruneNetworks(ctx context.Context, req *swarmv1.PruneNetworksRequest) (*swarmv1.PruneNetworksResponse, error) {
	out := &swarmv1.PruneNetworksResponse{}
	for n := range s.store.View().Networks.All() {
		if n.GetSpec().GetIngress() || !matches(req.GetFilter(), networkSubject(n)) {
			continue
		}
		err := s.removeNetwork(ctx, n)
		switch {
		case err == nil:
			out.Removed = append(out.Removed, n.GetSpec().GetName())
		case !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err):
			return out, fmt.Errorf("remove network %s: %w", n.GetSpec().GetName(), err)
		}
	}
	slices.Sort(out.Removed)
	return out, nil
}

func networkSubject(n *swarmv1.Network) subject {
	return subject{id: n.GetId(), names: []string{n.GetSpec().GetName()}, labels: []map[string]string{n.GetSpec().GetLabels()}}
}
