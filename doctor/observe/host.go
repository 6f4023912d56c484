//go:build linux

package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"swarm/doctor"
	"swarm/internal/disk"
	"swarm/internal/thread"
)

// seccomp looks whether the kernel can filter system calls.
func seccomp() doctor.Feature {
	f := doctor.Feature{Name: "seccomp", For: "protection of the host by a profile of system calls"}
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		f.Reason = "the kernel is built without CONFIG_SECCOMP_FILTER"
	}
	return f
}

// clock asks the kernel whether its clock is synchronised.
func clock() doctor.Clock {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return doctor.Clock{Problem: err.Error()}
	}
	return doctor.Clock{Synchronised: state != unix.TIME_ERROR, Error: time.Duration(t.Maxerror) * time.Microsecond}
}

// port tries to listen on a port, as the daemon will.
func port(ctx context.Context, p doctor.Port) doctor.Port {
	var listen net.ListenConfig
	address := fmt.Sprintf(":%d", p.Number)
	var err error
	if p.Network == "udp" {
		var conn net.PacketConn
		if conn, err = listen.ListenPacket(ctx, p.Network, address); err == nil {
			err = conn.Close()
		}
	} else {
		var ln net.Listener
		if ln, err = listen.Listen(ctx, p.Network, address); err == nil {
			err = ln.Close()
		}
	}
	p.Taken = reason(err)
	return p
}

// reason returns the kernel's error text, without the names of the calls around it.
func reason(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return errno.Error()
	default:
		return err.Error()
	}
}

// syncs is the number of writes with which the disk is measured: enough to see a stall, and few
// enough for a slow disk.
const syncs = 32

// stateDisk looks at the file system that holds the folder path, or that will hold it.
func stateDisk(path string) doctor.Disk {
	d := doctor.Disk{Path: path, Looked: nearest(path)}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.Looked, &fs); err != nil {
		d.Problem = reason(err)
		return d
	}
	space, err := disk.Of(d.Looked)
	if err != nil {
		d.Problem = reason(err)
		return d
	}
	d.Total, d.Free = space.Total, space.Free
	d.Inodes, d.InodesFree = fs.Files, fs.Ffree
	d.NoExec = fs.Flags&unix.ST_NOEXEC != 0
	dir, err := os.MkdirTemp(d.Looked, ".swarm-doctor-")
	if err == nil {
		defer os.RemoveAll(dir)
		d.SyncMedian, d.SyncSlowest, err = syncTimes(filepath.Join(dir, "sync"))
	}
	if err != nil {
		d.Problem, d.Full = reason(err), errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
		return d
	}
	d.OverlayFSReason = reason(tryOverlayFS(dir))
	return d
}

// nearest returns the folder path, or the nearest folder above it that exists.
func nearest(path string) string {
	for {
		if info, err := os.Stat(path); (err == nil && info.IsDir()) || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// syncTimes writes as a log does: it appends a page and syncs.
func syncTimes(path string) (median, slowest time.Duration, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	took := make([]time.Duration, 0, syncs)
	for range syncs {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[syncs/2], took[syncs-1], nil
}

// tryOverlayFS mounts an overlay file system below dir. It does so in a mount namespace of its own,
// which ends with its thread and takes the mount along.
func tryOverlayFS(dir string) error {
	folders := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		folders[name] = filepath.Join(dir, name)
		if err := os.Mkdir(folders[name], 0o700); err != nil {
			return err
		}
	}
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", folders["lower"], folders["upper"], folders["work"])
		if err := unix.Mount("overlay", folders["merged"], "overlay", 0, data); err != nil {
			return err
		}
		return unix.Unmount(folders["merged"], unix.MNT_DETACH)
	})
}

// dnsTimeout bounds how long a name server may take.
const dnsTimeout = 2 * time.Second

// dns asks each name server of the host for a name that cannot exist (RFC 6761, section 6.4).
func dns(ctx context.Context, resolvConf string) doctor.DNS {
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return doctor.DNS{Problem: fmt.Sprintf("%s: %s", resolvConf, reason(err))}
	}
	var d doctor.DNS
	for _, address := range nameServers(string(text)) {
		d.Servers = append(d.Servers, askNameServer(ctx, address))
	}
	return d
}

func nameServers(resolvConf string) []string {
	var servers []string
	for line := range strings.Lines(resolvConf) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	return servers
}

func askNameServer(ctx context.Context, address string) doctor.NameServer {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	server := doctor.NameServer{Address: address}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, net.JoinHostPort(address, "53"))
	}}
	start := time.Now()
	_, err := resolver.LookupHost(ctx, "swarm-doctor.invalid.")
	server.Took = time.Since(start)
	var dnsErr *net.DNSError
	switch {
	case err == nil:
		server.Invented = true
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
	case ctx.Err() != nil:
		server.Problem = fmt.Sprintf("nothing came within %s", dnsTimeout)
	case errors.As(err, &dnsErr):
		server.Problem = dnsErr.Err
	default:
		server.Problem = reason(err)
	}
	return server
}
