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

	"swarm/overlay/vswitch"
)

// Role of a host when it was made; the cluster may have changed its mind since. Empty for a host that was not made a member.
type Role string

// The roles.
const (
	Manager Role = "manager"
	Worker  Role = "worker"
)

// marker in the root folder proves that Down may remove it.
const marker = ".swarm-dev"

// record is what one process must know of a playground that another one made.
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
	// Daemon is the last one started, running or not.
	Daemon process
	// Unplugged hosts keep their daemon and lack a carrier.
	Unplugged bool
	// Off hosts have no namespace.
	Off bool
	// Simulated hosts run no containers.
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

// plugged lists the hosts that have a port on the switch.
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

// advertised is the address that the host tells the cluster.
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

// cgroupParent is a cgroup of its own for each host, in every hierarchy, below one
// for the playground.
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
	// Renamed into place: a reader never sees half of it.
	tmp := recordPath(r.Name) + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save playground %s: %w", r.Name, err)
	}
	return os.Rename(tmp, recordPath(r.Name))
}

// lock takes an exclusive lock on a folder, which it creates. It waits: a lock is
// held for as long as a command on the playground runs, and ends with its process.
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
		// Whoever held it may have removed the folder while this one waited.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(dir)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

// makeAll creates a folder and its parents. It tries again when a parent vanishes meanwhile: the
// removal of the last playground removes the empty parents.
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

// machineID is as /etc/machine-id, which all hosts share, would be on a machine of its own.
func (r *record) machineID(h string) string {
	sum := sha256.Sum256([]byte(r.key(h)))
	return hex.EncodeToString(sum[:16])
}
