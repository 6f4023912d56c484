package ca

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/gossipkeys"
	"swarm/internal/ident"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// BootstrapConfig describes a new cluster and its first manager. NewCluster makes ids for empty
// ids.
type BootstrapConfig struct {
	ClusterID string
	NodeID    string
	Spec      *swarmv1.ClusterSpec
	// Format is the command format of this build.
	Format uint32

	CSR          []byte
	MachineID    string
	Hostname     string
	Addr         string
	Port         uint32
	DataPathAddr string
	Availability swarmv1.NodeSpec_Availability
}

// BootstrapResult is a new cluster. Changes are the rows to commit as the first group after the
// bootstrap of the store. Certificate and Bundle are the identity of the first manager, which needs
// it before the store is available.
type BootstrapResult struct {
	Cluster     *swarmv1.Cluster
	Node        *swarmv1.Node
	Certificate []byte
	Bundle      []byte
	Changes     []*swarmv1.Change
}

// NewCluster makes the rows of a new cluster: the root, the join tokens, the gossip key, and the
// first node as a manager.
func NewCluster(f BootstrapConfig, now time.Time) (*BootstrapResult, error) {
	if f.ClusterID == "" {
		f.ClusterID = ident.NewID()
	}
	if f.NodeID == "" {
		f.NodeID = ident.NewID()
	}
	if f.Addr == "" || f.Port == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("create cluster: the first node has no address: give one with --advertise-addr")
	}
	if f.Hostname != "" {
		if err := checkHostname(f.Hostname); err != nil {
			return nil, fmt.Errorf("create cluster: %w", err)
		}
	}
	root, err := pki.CreateRoot(f.ClusterID, now)
	if err != nil {
		return nil, fmt.Errorf("create cluster: %w", err)
	}
	rootCA, bundle, err := newRootCA(root)
	if err != nil {
		return nil, fmt.Errorf("create cluster: %w", err)
	}
	spec := f.Spec.CloneVT()
	if spec == nil {
		spec = &swarmv1.ClusterSpec{}
	}
	if spec.Name == "" {
		spec.Name = "default"
	}
	cluster := &swarmv1.Cluster{
		Id: f.ClusterID, Spec: spec, RootCa: rootCA, Epoch: 1, Format: f.Format,
		GossipKeys: []*swarmv1.EncryptionKey{gossipkeys.First(pki.NewGossipKey(), now)},
	}
	cert, err := root.SignNode(f.CSR, f.NodeID, validity(cluster), now)
	if err != nil {
		return nil, fmt.Errorf("create cluster: %w", err)
	}
	node := &swarmv1.Node{
		Id: f.NodeID, MachineId: f.MachineID, Addr: f.Addr, Port: f.Port, DataPathAddr: f.DataPathAddr, Hostname: f.Hostname,
		Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_MANAGER, Availability: f.Availability}, PublicKey: cert.RawSubjectPublicKeyInfo,
	}
	return &BootstrapResult{
		Cluster: cluster, Node: node, Certificate: certPEM(cert), Bundle: bundle.PEM(),
		Changes: []*swarmv1.Change{
			table.Create(cluster), table.Create(node), table.Create(newState(node, now)),
		},
	}, nil
}

// newState returns the NodeState of a node that has just become a member.
func newState(n *swarmv1.Node, now time.Time) *swarmv1.NodeState {
	return &swarmv1.NodeState{
		NodeId: n.GetId(), State: swarmv1.NodeState_UNKNOWN, Message: "joined, and has not reported yet",
		Addr: n.GetAddr(), Since: timestamppb.New(now), Description: &swarmv1.NodeDescription{Hostname: n.GetHostname()},
	}
}
