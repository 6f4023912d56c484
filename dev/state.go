//go:build linux

package dev

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/durable"
	"swarm/overlay/vswitch"
)

// Role is the role with which a host joined. The cluster may have changed the role since then. It
// is empty for a host that is not a member.
type Role string

// The roles.
const (
	Manager Role = "manager"
	Worker  Role = "worker"
)

// marker is the name of a file that proves to Down that it may remove the root folder.
const marker = ".swarm-dev"

// record is the state of a playground on disk. Every process that works on the playground reads it.
type record struct {
	Name       string
	Root       string
	Subnet     netip.Prefix
	MTU        int
	IPv6       bool
	Advertise6 bool
	Disk       int64
	Binary     string
	DaemonArgs []string
	Env        []string
	Hosts      []hostRecord
	Faults     []vswitch.Fault
}

type hostRecord struct {
	Name    string
	Role    Role
	Address netip.Addr
	// Daemon is the last daemon of the host, which may have ended.
	Daemon process
	// Unplugged is set if the host's interface has no carrier. The daemon runs.
	Unplugged bool
	// Off is set if the host has no namespace.
	Off bool
	// Simulated is set if the host simulates containers.
	Simulated bool `json:",omitempty"`
}

func (r *record) host(name string) (*hostRecord, error) {
	i := slices.IndexFunc(r.Hosts, func(h hostRecord) bool { return h.Name == name })
	if i < 0 {
		var names []string
		for _, h := range r.Hosts {
			names = append(names, h.Name)
		}
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("playground %s has no host %s: its hosts are %s", r.Name, name, strings.Join(names, ", ")))
	}
	return &r.Hosts[i], nil
}

// plugged returns the hosts that are on the switch.
func (r *record) plugged() []vswitch.Host {
	var hosts []vswitch.Host
	for _, h := range r.Hosts {
		if !h.Off {
			hosts = append(hosts, vswitch.Host{Name: h.Name, Address: h.Address})
		}
	}
	return hosts
}

func (r *record) lab() (*Lab, error) {
	return openLab(LabConfig{Dir: r.pinDir(), Name: r.Name, Subnet: r.Subnet, MTU: r.MTU, IPv6: r.IPv6}, r.plugged())
}

// advertised returns the address that a host advertises to the cluster.
func (r *record) advertised(h *hostRecord) netip.Addr {
	if r.Advertise6 {
		return vswitch.IPv6Address(r.Subnet, h.Address)
	}
	return h.Address
}

func runDir(name string) string       { return filepath.Join(runRoot, name) }
func recordPath(name string) string   { return filepath.Join(runDir(name), "playground.json") }
func (r *record) pinDir() string      { return filepath.Join(runDir(r.Name), "ns") }
func (r *record) key(h string) string { return r.Name + "/" + h }

func (r *record) stateDir(h string) string { return filepath.Join(r.Root, h) }
func (r *record) hostRunDir(h string) string {
	return filepath.Join(runDir(r.Name), h)
}

func (r *record) socket(h string) string    { return filepath.Join(r.hostRunDir(h), "swarm.sock") }
func (r *record) daemonLog(h string) string { return filepath.Join(r.Root, h+".log") }

// cgroupParent returns the parent cgroup of a host's containers, below that of the playground. It
// is the same in every hierarchy.
func (r *record) cgroupParent(h string) string { return r.cgroupRoot() + "/" + h }

func load(name string) (*record, error) {
	b, err := os.ReadFile(recordPath(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("playground %s does not exist: make it with `swarm dev up%s`", name, nameFlag(name)))
	}
	if err != nil {
		return nil, fmt.Errorf("read playground %s: %w", name, err)
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read playground %s: %w; remove it with `swarm dev down%s`", name, err, nameFlag(name))
	}
	return r, nil
}

func (r *record) save() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	// Replace the file atomically, because another process may read it at any time.
	if err := durable.WriteFile(recordPath(r.Name), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save playground %s: %w", r.Name, err)
	}
	return nil
}

// lock makes a folder and takes an exclusive lock on it. It waits for other holders: a command
// holds the lock of a playground while it runs. The lock ends with the process.
func lock(dir string) (unlock func(), err error) {
	for {
		if err := makeAll(dir); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		// The former holder may have removed the folder meanwhile.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(dir)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

// makeAll makes a folder and its parents. It tries again if a parent is removed meanwhile: the
// removal of the last playground removes empty parents.
func makeAll(dir string) (err error) {
	for range 100 {
		if err = os.MkdirAll(dir, 0o711); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return err
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (r *record) cgroupRoot() string { return "/swarm-dev-" + r.Name }

// machineID returns an ID for a host. The hosts cannot use /etc/machine-id, because they share this
// file.
func (r *record) machineID(h string) string {
	sum := sha256.Sum256([]byte(r.key(h)))
	return hex.EncodeToString(sum[:16])
}
