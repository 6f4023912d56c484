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

// Membership is what a node stores about its cluster for the next start of the daemon.
type Membership struct {
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"`
	// Manager says that the last known role of this node is manager.
	Manager bool `json:"manager"`
	// ManagerLog is the ID of the Raft log in the manager's folder. It is stored before Raft uses
	// the log, and removed after the log is deleted because this node was demoted. While it is set,
	// this node takes part as a manager only with that log.
	ManagerLog string `json:"manager_log,omitempty"`
	// Addr is the address at which others reach this node, without port.
	Addr         string `json:"addr"`
	DataPathAddr string `json:"data_path_addr"`
	// AddrOf and DataPathOf are the names of the interfaces that have Addr and DataPathAddr. They
	// are anyInterface if the operator gave no address. They are empty if no interface has the
	// address, or if an older build wrote the file.
	AddrOf     string `json:"addr_of,omitempty"`
	DataPathOf string `json:"data_path_of,omitempty"`
	// ListenAddr is the address on which this node listens for the cluster port. Empty means all
	// addresses.
	ListenAddr string `json:"listen_addr"`
	// Port is the cluster port at which others reach this node. ListenPort is the port on which it
	// listens; 0 means the same as Port.
	Port       uint16 `json:"port"`
	ListenPort uint16 `json:"listen_port,omitempty"`
	GossipPort uint16 `json:"gossip_port"`
	// DataPathPort is the UDP port for VXLAN packets on every node. 0 means the default.
	DataPathPort uint16   `json:"data_path_port,omitempty"`
	GossipKeys   [][]byte `json:"gossip_keys"`
	Managers     []Peer   `json:"managers"`
}

// Peer is the address of a node's cluster port.
type Peer struct {
	NodeID string `json:"node_id"`
	Addr   string `json:"addr"`
	Port   uint16 `json:"port"`
}

// HostPort returns the peer's address in the form that net.Dial takes.
func (p Peer) HostPort() string { return net.JoinHostPort(p.Addr, strconv.Itoa(int(p.Port))) }

func peersOf(list []*swarmv1.Peer) []Peer {
	peers := make([]Peer, 0, len(list))
	for _, p := range list {
		peers = append(peers, Peer{NodeID: p.NodeId, Addr: p.Addr, Port: uint16(p.Port)})
	}
	return peers
}

// disk stores a membership below dir: the credential, node.json, and the folders of the manager and
// the worker.
type disk struct{ dir string }

func (d disk) credential() pki.Disk { return pki.Disk{Dir: filepath.Join(d.dir, "certificates")} }
func (d disk) file() string         { return filepath.Join(d.dir, "node.json") }
func (d disk) managerDir() string   { return filepath.Join(d.dir, "manager") }
func (d disk) workerDir() string    { return filepath.Join(d.dir, "worker") }

// load returns nil if the host is not a member of a cluster. The error is ErrDataLoss if the file
// is damaged.
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

// damaged returns the error for a membership on disk that cannot be used.
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

// removeManager removes the files of the manager.
func (d disk) removeManager() error { return os.RemoveAll(d.managerDir()) }

// forget removes all files of the cluster. Images and the runtime's files stay.
func (d disk) forget() error {
	// Remove the membership first. Without it the other files are never read again, even after a
	// power failure at this point.
	if err := os.Remove(d.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Containers wrote the volumes, which may have folders of any depth.
	return errors.Join(d.credential().Remove(), d.removeManager(), tree.RemoveAll(context.Background(), d.workerDir()))
}
