package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"swarm/internal/sysctl"
)

// Judge returns the findings of the observations, in the order of the layers of a host, from the
// kernel up. Each subject has at least one finding.
func Judge(o Observations) []Finding {
	return slices.Concat(
		judgeKernel(o.Features), judgeRunc(o.Runc), judgeCgroup(o.Cgroup), judgeDisk(o.Disk), judgeSysctls(o.Sysctls, o.Firewall),
		judgeFirewall(o.Firewall), judgeMTU(o.MTU, o.MTUProblem, o.Networks),
		judgeNetworks(o.Networks), judgePorts(o.Ports, o.Networks, o.Cluster.Active()), judgeDNS(o.DNS), judgeClock(o.Clock), judgeCluster(o.Cluster),
	)
}

func judgeKernel(features []Feature) []Finding {
	v := verdict{subject: "kernel"}
	names := make([]string, 0, len(features))
	for _, f := range features {
		names = append(names, f.Name)
		if f.Reason == "" {
			continue
		}
		remedy := "use a kernel that has " + f.Name
		if f.Module != "" {
			remedy = fmt.Sprintf("modprobe %s, and add a line `%s` to /etc/modules-load.d/swarm.conf; if there is no such module, use a kernel that has it", f.Module, f.Module)
		}
		v.add(Failure, fmt.Sprintf("%s does not work (%s): no %s", f.Name, f.Reason, f.For), remedy)
	}
	return v.orOK(strings.Join(names, ", ") + " work")
}

func judgeRunc(r Runc) []Finding {
	v := verdict{subject: "runc"}
	if r.NoProfiles != "" {
		v.add(Warning, r.NoProfiles, "use a release of swarm, or build it where libseccomp is: `make deps`, then `make build`")
	}
	return v.orOK(fmt.Sprintf("version %s, with seccomp profiles", r.Version))
}

// controllers are needed with both cgroup versions. v1Controllers are needed with version 1 only,
// because version 2 has these functions without a controller.
var (
	controllers   = []string{"cpu", "cpuset", "memory", "pids"}
	v1Controllers = []string{"devices", "freezer"}
)

func judgeCgroup(c Cgroup) []Finding {
	v := verdict{subject: "cgroup"}
	if c.Version == 0 {
		v.add(Failure, "no cgroups are mounted: containers cannot run",
			"mount them (mount -t cgroup2 none /sys/fs/cgroup); in a network namespace use nsenter --net=, because ip netns exec hides them")
		return v.findings
	}
	needed := controllers
	if c.Version == 1 {
		needed = slices.Concat(controllers, v1Controllers)
	}
	for _, name := range needed {
		if _, ok := c.Controllers[name]; ok {
			continue
		}
		remedy := fmt.Sprintf("use a kernel with the cgroup controller %s", name)
		if name == "memory" {
			remedy = "boot with cgroup_enable=memory"
		}
		v.add(Failure, fmt.Sprintf("the cgroup controller %s is missing: its limits cannot be kept", name), remedy)
	}
	// Controllers with the same reason share one finding.
	reasons := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Controllers)) {
		if reason := c.Controllers[name]; reason != "" && slices.Contains(needed, name) {
			reasons[reason] = append(reasons[reason], name)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		v.add(Failure, fmt.Sprintf("no cgroup can be made for %s: %s", strings.Join(reasons[reason], ", "), reason),
			"run swarm where /sys/fs/cgroup is writable: on the host itself, or in a container that is privileged")
	}
	return v.orOK(fmt.Sprintf("version %d, with %s, writable", c.Version, strings.Join(needed, ", ")))
}

// The limits of a disk. A manager syncs its log with every change, and followers give a leader up
// after 500 ms of silence.
const (
	syncSlow = 20 * time.Millisecond
	syncLost = 500 * time.Millisecond
	// diskFull is the percentage of used space at which a node begins to clean up. nearlyFull is
	// the percentage of used inodes at which the doctor reports that images do not fit.
	diskFull   = 85
	nearlyFull = 95
	leastFree  = 512 << 20
)

func judgeDisk(d Disk) []Finding {
	v := verdict{subject: "disk"}
	switch {
	case d.Full:
		v.add(Failure, fmt.Sprintf("%s is full, nothing can be written there: %s", d.Looked, d.Problem),
			fmt.Sprintf("free space on the file system of %s (`swarm system prune` removes what is not used)", d.Looked))
		return v.findings
	case d.Problem != "":
		v.add(Failure, fmt.Sprintf("%s cannot be used: %s", d.Path, d.Problem), "make the folder writable, or give the daemon another with --state-dir")
		return v.findings
	}
	if d.OverlayFSReason != "" {
		v.add(Failure, fmt.Sprintf("overlayfs does not work on %s (%s): containers have no root file system", d.Looked, d.OverlayFSReason),
			"put the state folder on ext4 or xfs (with ftype=1), and load the module: modprobe overlay")
	}
	if d.NoExec {
		v.add(Failure, d.Looked+" is mounted noexec: containers' programs are started from there",
			fmt.Sprintf("mount -o remount,exec the file system of %s, or give the daemon another --state-dir", d.Looked))
	}
	judgeSpace(&v, d)
	switch {
	case d.SyncSlowest >= syncLost:
		v.add(Failure, fmt.Sprintf("a write reached the disk only after %s (half of them within %s): a manager here would lose leadership",
			round(d.SyncSlowest), round(d.SyncMedian)), "put the state folder on a faster disk, or keep this node a worker")
	case d.SyncMedian >= syncSlow:
		v.add(Warning, fmt.Sprintf("a write takes %s to reach the disk: every change of the cluster waits that long", round(d.SyncMedian)),
			"put the managers' state folders on solid-state disks")
	}
	return v.orOK(fmt.Sprintf("%s: %s of %s free, a write reaches the disk in %s", d.Path, bytesText(d.Free), bytesText(d.Total), round(d.SyncMedian)))
}

func judgeSpace(v *verdict, d Disk) {
	remedy := fmt.Sprintf("free space on the file system of %s, or give the daemon another --state-dir", d.Looked)
	switch used := percentUsed(d.Total, d.Free); {
	case d.Free < leastFree:
		v.add(Failure, fmt.Sprintf("%s is full to %d%%, %s free: images do not fit", d.Looked, used, bytesText(d.Free)), remedy)
	case used >= diskFull:
		v.add(Warning, fmt.Sprintf("%s is full to %d%%, %s free", d.Looked, used, bytesText(d.Free)), remedy)
	}
	if used := percentUsed(d.Inodes, d.InodesFree); used >= nearlyFull {
		v.add(Failure, fmt.Sprintf("%d%% of the inodes of %s are used: images do not fit, whatever the space", used, d.Looked), remedy)
	}
}

// percentUsed returns 0 if the file system does not count.
func percentUsed(total, free uint64) int {
	if total == 0 {
		return 0
	}
	return int((total - min(free, total)) * 100 / total)
}

func judgeSysctls(settings []Sysctl, fw Firewall) []Finding {
	v := verdict{subject: "sysctl"}
	values := map[string]Sysctl{}
	for _, s := range settings {
		values[s.Key] = s
	}
	if f := values[sysctlForward]; f.Value != "1" {
		switch {
		case len(fw.Devices) > 0:
			v.add(Failure, sysctlForward+" is 0 though containers run: published ports and their outgoing connections do not work",
				"sysctl -w net.ipv4.ip_forward=1, and see who sets it: grep -r ip_forward /etc/sysctl.conf /etc/sysctl.d")
		case f.Fixed:
			v.add(Failure, sysctlForward+" is 0 and cannot be written from here: containers reach nothing outside", "sysctl -w net.ipv4.ip_forward=1 where it can be written, before the daemon starts")
		default:
			v.add(Note, sysctlForward+" is 0: swarm turns it on with the first container that has a network", "")
		}
	}
	if values[sysctlRPFilter].Value == "1" {
		v.add(Warning, sysctlRPFilter+" is 1 (strict), which overrules what is set for swarm's interfaces: packets that come back another way are dropped",
			"sysctl -w net.ipv4.conf.all.rp_filter=2, and the same line in /etc/sysctl.d/90-swarm.conf")
	}
	if values[sysctlBridge].Value == "1" && (len(fw.ForwardDrop) > 0 || fw.Legacy) {
		v.add(Warning, sysctlBridge+" is 1: the firewall's FORWARD rules also judge packets between containers of this host",
			"sysctl -w net.bridge.bridge-nf-call-iptables=0, unless another container engine on this host needs it")
	}
	for _, l := range sysctl.Limits() {
		f := values[l.Key]
		n, err := strconv.ParseInt(f.Value, 10, 64)
		switch {
		case err != nil || n >= l.Least:
		case f.Fixed:
			v.add(Warning, fmt.Sprintf("%s is %d and cannot be raised from here: one container can use it up, and then %s", l.Key, n, l.Why),
				fmt.Sprintf("sysctl -w %s=%d where it can be written, and the same line in /etc/sysctl.d/90-swarm.conf", l.Key, l.Least))
		default:
			v.add(Note, fmt.Sprintf("%s is %d: the daemon raises it to %d when it starts", l.Key, n, l.Least), "")
		}
	}
	return v.orOK("ip_forward, rp_filter and bridge-nf-call-iptables let containers talk")
}

// dnsSlow is the time of an answer above which users notice that a name server is slow.
const dnsSlow = 500 * time.Millisecond

func judgeDNS(d DNS) []Finding {
	v := verdict{subject: "dns"}
	names := make([]string, 0, len(d.Servers))
	switch {
	case d.Problem != "":
		v.add(Warning, "the host's name servers are not known: "+d.Problem, "write a line `nameserver ADDRESS` into /etc/resolv.conf")
	case len(d.Servers) == 0:
		v.add(Warning, "/etc/resolv.conf names no name server: registries and everything else outside cannot be found by name",
			"write a line `nameserver ADDRESS` into /etc/resolv.conf")
	}
	for _, s := range d.Servers {
		names = append(names, s.Address)
		remedy := "see that the server runs and that 53/udp and 53/tcp to it are open, or name another in /etc/resolv.conf"
		switch {
		case s.Problem != "":
			v.add(Warning, fmt.Sprintf("name server %s does not answer: %s", s.Address, s.Problem), remedy)
		case s.Invented:
			v.add(Warning, fmt.Sprintf("name server %s gives addresses for names that do not exist: mistyped names lead elsewhere", s.Address), "name another in /etc/resolv.conf")
		case s.Took >= dnsSlow:
			v.add(Warning, fmt.Sprintf("name server %s takes %s to answer", s.Address, round(s.Took)), remedy)
		}
	}
	return v.orOK("answered by " + strings.Join(names, ", "))
}

func judgeClock(c Clock) []Finding {
	v := verdict{subject: "clock"}
	switch {
	case c.Problem != "":
		v.add(Warning, "the state of the clock is not known: "+c.Problem, "see `timedatectl`")
	case !c.Synchronised:
		v.add(Warning, "nothing keeps this host's clock right: certificates and the order of logs depend on it",
			"install and start one of chrony, systemd-timesyncd, ntpd")
	}
	return v.orOK(fmt.Sprintf("synchronised, within %s", round(c.Error)))
}

// round shortens a duration for reading.
func round(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	default:
		return d.Round(10 * time.Microsecond)
	}
}

func bytesText(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
