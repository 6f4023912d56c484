package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
	"swarm/internal/pki"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
)

// Membership is what a node remembers of its cluster between two runs of the daemon.
type Membership struct {
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"`
	// Manager is the role that this node last knew to be its own.
	Manager bool `json:"manager"`
	// Addr is how others reach this node, without port.
	Addr         string `json:"addr"`
	DataPathAddr string `json:"data_path_addr"`
	// AddrOf and DataPathOf are the interfaces that have the addresses: anyInterface when the host had one address, and empty
	// when none has it, or a former build wrote this.
	AddrOf     string `json:"addr_of,omitempty"`
	DataPathOf string `json:"data_path_of,omitempty"`
	// ListenAddr is bound by the cluster port.
	ListenAddr string `json:"listen_addr"`
	// Port is where others reach the cluster port; ListenPort is bound, and 0 when it is the same.
	Port       uint16 `json:"port"`
	ListenPort uint16 `json:"listen_port,omitempty"`
	GossipPort uint16 `json:"gossip_port"`
	// DataPathPort is where every node takes VXLAN packets; 0 is the default.
	DataPathPort uint16   `json:"data_path_port,omitempty"`
	GossipKeys   [][]byte `json:"gossip_keys"`
	Managers     []Peer   `json:"managers"`
}

// Peer is how to reach a node.
type Peer struct {
	NodeID string `json:"node_id"`
	Addr   string `json:"addr"`
	Port   uint16 `json:"port"`
}

// HostPort is the peer's address to dial.
func (p Peer) HostPort() string { return net.JoinHostPort(p.Addr, strconv.Itoa(int(p.Port))) }

func peersOf(list []*swarmv1.Peer) []Peer {
	peers := make([]Peer, 0, len(list))
	for _, p := range list {
		peers = append(peers, Peer{NodeID: p.NodeId, Addr: p.Addr, Port: uint16(p.Port)})
	}
	return peers
}

// disk keeps a membership: the credential, and beside it node.json.
type disk struct{ dir string }

func (d disk) credential() pki.Disk { return pki.Disk{Dir: filepath.Join(d.dir, "certificates")} }
func (d disk) file() string         { return filepath.Join(d.dir, "node.json") }
func (d disk) managerDir() string   { return filepath.Join(d.dir, "manager") }
func (d disk) workerDir() string    { return filepath.Join(d.dir, "worker") }

// load gives nil when the host is no member.
func (d disk) load() (*Membership, error) {
	text, err := os.ReadFile(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var m Membership
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, damaged("%s is damaged: %v", d.file(), err)
	}
	if m.NodeID == "" || m.ClusterID == "" || m.Port == 0 {
		return nil, damaged("%s is damaged: it names no node, cluster or port", d.file())
	}
	return &m, nil
}

// damaged is what is remembered of a cluster but cannot be used.
func damaged(format string, args ...any) error {
	return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf(format, args...) + ": restore it, or run `swarm leave --force` and join again")
}

// save replaces node.json durably.
func (d disk) save(m *Membership) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(d.file(), text, 0o600)
}

// forget removes all that belongs to the cluster; images and the runtime's files stay.
func (d disk) forget() error {
	// The membership goes first: without it the rest is never read again, should the power fail here.
	if err := os.Remove(d.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Containers have made what is in volumes, folders of any depth.
	return errors.Join(d.credential().Remove(), os.RemoveAll(d.managerDir()), tree.RemoveAll(context.Background(), d.workerDir()))
}
