package network

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// firstVNI and lastVNI are the range of VXLAN network identifiers, which have 24 bits. The
	// lower ones are left to other software on the same hosts: Docker Swarm starts at 4096.
	firstVNI, lastVNI = 1 << 16, 1<<24 - 1
	// vniCursor is the key of the row that has the identifier which was allocated last.
	vniCursor = "next/vni"
)

// Deps are what a Server needs.
type Deps struct {
	Store  *raftstore.Store
	Writer *crud.Writer
	Nodes  *nodecall.Caller
}

// Server serves the RPCs of networks.
type Server struct {
	store  *raftstore.Store
	writer *crud.Writer
	nodes  *nodecall.Caller
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{store: deps.Store, writer: deps.Writer, nodes: deps.Nodes}
}

// CreateNetwork writes a network. It chooses the subnets that the spec leaves open from the
// cluster's address pools. It returns warnings if a subnet overlaps another network, or a range
// that nodes route elsewhere, and if the network is attachable.
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
	_, err = object.Networks().Create(ctx, s.writer, wanted.GetName(), func(v *table.View) (*swarmv1.Network, []*swarmv1.Change, error) {
		return newNetwork(v, id, wanted, random)
	})
	if err != nil {
		return nil, err
	}
	info, err := s.GetNetwork(ctx, &swarmv1.GetRequest{Id: id})
	if err == nil {
		info.Warnings = append(attachable(wanted), overlaps(s.store.View(), info.GetNetwork())...)
	}
	return info, err
}

// attachable returns a warning if the network is to be attachable. In Docker, the option lets
// `docker run` use the network. Here every container belongs to a service, so there is no container
// that the option would let in.
func attachable(s *swarmv1.NetworkSpec) []string {
	if !s.GetAttachable() {
		return nil
	}
	return []string{fmt.Sprintf("--attachable changes nothing on network %s: there are no containers without a service; "+
		"attach a service with `swarm service create --network %s`", s.GetName(), s.GetName())}
}

// newNetwork makes the row of a network, and the changes that claim its VXLAN network identifier.
// Two calls at the same time choose the same identifier, so the store rejects one of their groups.
// That network is made again from a newer view, which has the subnet of the other network.
func newNetwork(v *table.View, id string, sp *swarmv1.NetworkSpec, random [5]byte) (*swarmv1.Network, []*swarmv1.Change, error) {
	options, err := subnets(v, sp, random)
	if err != nil {
		return nil, nil, err
	}
	vni, claims, err := nextVNI(v, id)
	if err != nil {
		return nil, nil, err
	}
	return &swarmv1.Network{Id: id, Spec: sp, Vni: vni, Ipam: options}, claims, nil
}

// nextVNI returns the next free VXLAN network identifier, and the changes that claim it.
func nextVNI(v *table.View, network string) (uint32, []*swarmv1.Change, error) {
	row, _ := v.Claims.Get(vniCursor)
	last, _ := strconv.ParseUint(row.GetOwner(), 10, 32)
	vni := uint32(last)
	for range v.Networks.Len() + 1 { // Each network has one identifier, so one of these is free.
		if vni++; vni < firstVNI || vni > lastVNI {
			vni = firstVNI
		}
		key := object.VNIKey(vni)
		if _, taken := v.Claims.Get(key); taken {
			continue
		}
		return vni, []*swarmv1.Change{
			table.Create(&swarmv1.Claim{Key: key, Owner: network}),
			table.Put(&swarmv1.Claim{Key: vniCursor, Owner: strconv.FormatUint(uint64(vni), 10)}),
		}, nil
	}
	return 0, nil, errdefs.ErrResourceExhausted.WithMessage("no VXLAN network identifier is left: remove networks that are not used with `swarm network prune`")
}
