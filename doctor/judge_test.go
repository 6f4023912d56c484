package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// well is a host with nothing wrong, of a cluster of two.
func well() Observations {
	cgroup := map[string]string{}
	for _, name := range append([]string{"devices", "freezer"}, controllers...) {
		cgroup[name] = ""
	}
	return Observations{
		Features: []Feature{{Name: "VXLAN", Module: "vxlan", For: "overlay networks"}, {Name: "seccomp", For: "profiles"}},
		Runc:     Runc{Version: "1.2.3"},
		Cgroup:   Cgroup{Version: 1, Controllers: cgroup},
		Ports:    []Port{{Network: "tcp", Number: 2377, For: "the cluster", Flag: "--listen-addr"}},
		MTU:      1500,
		Sysctls:  []Sysctl{{Key: sysctlForward, Value: "1"}, {Key: sysctlRPFilter, Value: "2"}, {Key: sysctlBridge, Value: "1"}, {Key: "fs.inotify.max_user_instances", Value: "8192"}},
		Clock:    Clock{Synchronised: true, Error: time.Millisecond},
		Disk: Disk{
			Path: "/var/lib/swarm", Looked: "/var/lib", Total: 100 << 30, Free: 50 << 30, Inodes: 100, InodesFree: 50,
			SyncMedian: time.Millisecond, SyncSlowest: 5 * time.Millisecond,
		},
		Networks: Networks{
			Networks: []Network{
				{Name: "web", Subnets: prefixes("10.0.1.0/24", "fd00:1::/64"), MTU: 1450},
				{Name: "ingress", Subnets: prefixes("10.0.0.0/24"), OnHost: "swmesh"},
				{Name: "bridge", Subnets: prefixes("172.20.0.0/16"), OnHost: "swarm0"},
			},
			Pools: prefixes("10.0.0.0/8"), Room: 1450,
			Ranges: []Range{{prefix("192.0.2.0/24"), "eth0"}, {prefix("10.0.0.0/24"), "swmesh"}, {prefix("172.20.0.0/16"), "swarm0"}, {prefix("10.9.0.0/16"), "tun0"}},
		},
		DNS:     DNS{Servers: []NameServer{{Address: "192.0.2.1", Took: time.Millisecond}}},
		Cluster: Cluster{State: "active", Nodes: []Node{{Name: "b", Address: "192.0.2.2", RoundTrip: time.Millisecond}}},
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, prefix(s))
	}
	return out
}

func TestJudge_AWellHostHasNothingToRemedy(t *testing.T) {
	findings := Judge(well())
	if broken(findings) {
		t.Error("broken")
	}
	subjects := map[string]bool{}
	for _, f := range findings {
		subjects[f.Subject] = true
		if f.Level != OK || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
	if len(subjects) != 12 {
		t.Errorf("got %d subjects, want 12: each is told about: %v", len(subjects), subjects)
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spoil   func(*Observations)
		subject string
		level   Level
		text    string // part of the text
		remedy  string // part of the remedy
	}{
		{"no vxlan", func(o *Observations) { o.Features[0].Reason = "operation not supported" }, "kernel", Failure, "VXLAN does not work (operation not supported)", "modprobe vxlan"},
		{"no profiles", func(o *Observations) { o.Runc.NoProfiles = "runc has no seccomp" }, "runc", Warning, "runc has no seccomp", "make deps"},
		{"no seccomp", func(o *Observations) { o.Features[1].Reason = "not built" }, "kernel", Failure, "seccomp", "use a kernel that has seccomp"},
		{"no cgroups", func(o *Observations) { o.Cgroup = Cgroup{} }, "cgroup", Failure, "no cgroups are mounted", "nsenter"},
		{"no memory controller", func(o *Observations) { delete(o.Cgroup.Controllers, "memory") }, "cgroup", Failure, "memory is missing", "cgroup_enable=memory"},
		{"no freezer on v1", func(o *Observations) { delete(o.Cgroup.Controllers, "freezer") }, "cgroup", Failure, "freezer is missing", "kernel"},
		{"no devices on v2", func(o *Observations) { o.Cgroup.Version = 2; delete(o.Cgroup.Controllers, "devices") }, "cgroup", OK, "version 2", ""},
		{"read-only cgroups", func(o *Observations) {
			o.Cgroup.Controllers["cpu"], o.Cgroup.Controllers["pids"] = "read-only file system", "read-only file system"
		}, "cgroup", Failure, "for cpu, pids: read-only", "writable"},
		{"a controller nobody needs is read-only", func(o *Observations) { o.Cgroup.Controllers["rdma"] = "no" }, "cgroup", OK, "", ""},
		{"disk full to the last block", func(o *Observations) { o.Disk.Problem, o.Disk.Full = "no space left on device", true }, "disk", Failure, "is full, nothing can be written", "free space"},
		{"folder not writable", func(o *Observations) { o.Disk.Problem = "read-only file system" }, "disk", Failure, "/var/lib/swarm cannot be used", "--state-dir"},
		{"no overlayfs", func(o *Observations) { o.Disk.OverlayFSReason = "no such device" }, "disk", Failure, "overlayfs does not work on /var/lib", "modprobe overlay"},
		{"noexec", func(o *Observations) { o.Disk.NoExec = true }, "disk", Failure, "noexec", "remount,exec"},
		{"watermark", func(o *Observations) { o.Disk.Free = 14 << 30 }, "disk", Warning, "full to 86%", "free space"},
		{"full", func(o *Observations) { o.Disk.Free = 400 << 20 }, "disk", Failure, "full to 99%, 400.0 MiB free: images do not fit", "free space"},
		{"nearly full", func(o *Observations) { o.Disk.Free = 4 << 30 }, "disk", Warning, "full to 96%", "free space"},
		{"little though not full", func(o *Observations) { o.Disk.Total, o.Disk.Free = 600<<20, 500<<20 }, "disk", Failure, "500.0 MiB free", "free space"},
		{"no inodes", func(o *Observations) { o.Disk.InodesFree = 1 }, "disk", Failure, "99% of the inodes", "free space"},
		{"inodes not counted", func(o *Observations) { o.Disk.Inodes, o.Disk.InodesFree = 0, 0 }, "disk", OK, "", ""},
		{"slow disk", func(o *Observations) { o.Disk.SyncMedian = 25 * time.Millisecond }, "disk", Warning, "25ms", "solid-state"},
		{"disk that stalls", func(o *Observations) { o.Disk.SyncSlowest = time.Second }, "disk", Failure, "only after 1s", "worker"},
		{"no forwarding", func(o *Observations) { o.Sysctls[0].Value = "0" }, "sysctl", Note, "turns it on", ""},
		{"no forwarding, fixed", func(o *Observations) { o.Sysctls[0].Value, o.Sysctls[0].Fixed = "0", true }, "sysctl", Failure, "cannot be written", "sysctl -w net.ipv4.ip_forward=1"},
		{"a low limit", func(o *Observations) { o.Sysctls[3].Value = "128" }, "sysctl", Note, "max_user_instances is 128: the daemon raises it to 8192", ""},
		{"a low limit that stays", func(o *Observations) { o.Sysctls[3] = Sysctl{o.Sysctls[3].Key, "128", true} }, "sysctl", Warning, "cannot be raised", "max_user_instances=8192"},
		{"strict rp_filter", func(o *Observations) { o.Sysctls[1].Value = "1" }, "sysctl", Warning, "strict", "rp_filter=2"},
		{"bridged packets judged", func(o *Observations) { o.Firewall.ForwardDrop = []string{"ip filter FORWARD"} }, "sysctl", Warning, "between containers", "bridge-nf-call-iptables=0"},
		{"forward drop", func(o *Observations) { o.Firewall.ForwardDrop = []string{"ip filter FORWARD"} }, "firewall", Note, "ip filter FORWARD", "nft list chain ip filter FORWARD"},
		{"input drop", func(o *Observations) { o.Firewall.InputDrop = []string{"inet filter input"} }, "firewall", Warning, "inet filter input drops", "4789/udp"},
		{"legacy", func(o *Observations) { o.Firewall.Legacy = true }, "firewall", Warning, "iptables-legacy", "-I FORWARD"},
		{"firewall unreadable", func(o *Observations) { o.Firewall.Problem = "not permitted" }, "firewall", Warning, "not permitted", "nft list ruleset"},
		{"cloud MTU", func(o *Observations) { o.MTU, o.Networks.Room = 1400, 0 }, "mtu", OK, "overlay networks 1350", ""},
		{"tiny MTU", func(o *Observations) { o.MTU, o.Networks.Room = 1329, 0 }, "mtu", Failure, "only 1279", "the default route by at least 1"},
		{"IPv6 underlay", func(o *Observations) { o.Networks.Room, o.Networks.Networks[0].MTU = 1430, 1430 }, "mtu", OK, "overlay networks 1430", ""},
		{"tiny data path", func(o *Observations) { o.Networks.Room, o.Networks.Networks[0].MTU = 1270, 1270 }, "mtu", Failure, "only 1270", "the data path address by at least 10"},
		{"unknown MTU", func(o *Observations) { o.MTU, o.MTUProblem = 0, "no route" }, "mtu", Warning, "no route", "ip route"},
		{"accept rule lost", func(o *Observations) {
			o.Firewall.Devices = []Device{{Name: "swarm0", Dropped: []string{"ip filter DOCKER-USER"}}, {Name: "swmesh"}}
		}, "firewall", Failure, "chain ip filter DOCKER-USER drops forwarded packets and has lost swarm's rules for swarm0", "systemctl restart swarm"},
		{"accept rules present", func(o *Observations) {
			o.Firewall.ForwardDrop, o.Firewall.Devices = []string{"ip filter FORWARD"}, []Device{{Name: "swarm0"}}
		}, "firewall", OK, "chain ip filter FORWARD drops forwarded packets, and swarm's own rules let its packets through", ""},
		{"forwarding switched off under us", func(o *Observations) {
			o.Sysctls[0].Value, o.Firewall.Devices = "0", []Device{{Name: "swarm0"}}
		}, "sysctl", Failure, "is 0 though containers run", "grep -r ip_forward"},
		{"underlay shrank", func(o *Observations) { o.Networks.Room = 1350 }, "mtu", Failure, "network web have up to 1450 bytes here, the way to the other nodes takes 1350", "by 100; or, to make the network anew"},
		{"underlay grew", func(o *Observations) { o.Networks.Room = 8950 }, "mtu", Note, "takes 8950 by now", "drain"},
		{"room not known", func(o *Observations) { o.Networks.Room = 0 }, "mtu", OK, "", ""},
		{"route into a network", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("10.0.0.0/16"), "tun0"})
		}, "networks", Warning, "network web (10.0.1.0/24) overlaps 10.0.0.0/16, which this host reaches through tun0", "--subnet"},
		{"address in a network", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("fd00:1::7/128"), "eth1"})
		}, "networks", Warning, "network web (fd00:1::/64) overlaps fd00:1::7/128, which this host reaches through eth1", "--subnet"},
		{"route that leads nowhere", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("10.0.1.0/24"), ""})
		}, "networks", Warning, "by a route that leads nowhere", "take the route away"},
		{"route into ingress", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("10.0.0.0/24"), "eth1"})
		}, "networks", Failure, "network ingress (10.0.0.0/24) overlaps 10.0.0.0/24", "another range"},
		{"ingress within a wide route", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("10.0.0.0/15"), "eth1"})
		}, "networks", Warning, "network ingress (10.0.0.0/24) overlaps 10.0.0.0/15, which this host reaches through eth1: this host no longer reaches", "other addresses"},
		{"route into the bridge", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("172.20.5.0/24"), "eth1"})
		}, "networks", Failure, "network bridge (172.20.0.0/16) overlaps 172.20.5.0/24", "another range"},
		{"pool routed elsewhere", func(o *Observations) {
			o.Networks.Ranges = append(o.Networks.Ranges, Range{prefix("10.0.0.0/8"), "tun0"})
		}, "networks", Warning, "the address pool 10.0.0.0/8 lies in 10.0.0.0/8, which this host reaches through tun0", "--default-addr-pool"},
		{"routes not known", func(o *Observations) { o.Networks.Problem = "not permitted" }, "networks", Warning, "not permitted", "ip route"},
		{"published port held", func(o *Observations) {
			o.Networks.Held = []string{"port 8080/tcp is in use on this host by nginx (process 7)"}
		}, "ports", Failure, "port 8080/tcp is in use on this host by nginx (process 7): no service answers there", "within ten seconds"},
		{"port taken", func(o *Observations) { o.Ports[0].Taken = "address already in use" }, "ports", Failure, "2377/tcp, for the cluster, is taken", "--listen-addr"},
		{"no name server", func(o *Observations) { o.DNS.Servers = nil }, "dns", Warning, "names no name server", "nameserver ADDRESS"},
		{"silent name server", func(o *Observations) { o.DNS.Servers[0].Problem = "nothing came" }, "dns", Warning, "192.0.2.1 does not answer", "53/udp"},
		{"lying name server", func(o *Observations) { o.DNS.Servers[0].Invented = true }, "dns", Warning, "do not exist", "another"},
		{"slow name server", func(o *Observations) { o.DNS.Servers[0].Took = time.Second }, "dns", Warning, "takes 1s", "53/udp"},
		{"clock left alone", func(o *Observations) { o.Clock.Synchronised = false }, "clock", Warning, "nothing keeps", "chrony"},
		{"no daemon", func(o *Observations) { o.Cluster = Cluster{} }, "nodes", Note, "no daemon answers", ""},
		{"refused manager", func(o *Observations) { o.Cluster.Error = "this node runs no manager: restore /m" }, "nodes", Failure, "restore /m", "do what the message says"},
		{"no member", func(o *Observations) { o.Cluster = Cluster{State: "inactive"} }, "nodes", Note, "part of no cluster", ""},
		{"alone", func(o *Observations) { o.Cluster.Nodes = nil }, "nodes", OK, "alone", ""},
		{"cannot ask", func(o *Observations) { o.Cluster.Problem = "deadline exceeded" }, "nodes", Failure, "cannot be asked", "swarm info"},
		{"node is gone", func(o *Observations) {
			o.Cluster.Nodes[0].Problem, o.Cluster.Nodes[0].Ways = "timeout", []Way{{Network: "tcp", Port: 2377, Reason: "timeout"}}
		}, "nodes", Failure, "b (192.0.2.2) does not answer at any port: timeout", "node rm"},
		{"this host is cut off", func(o *Observations) {
			gone := Node{Name: "b", Address: "192.0.2.2", Problem: "timeout", Ways: []Way{{Network: "tcp", Port: 2377, Reason: "timeout"}}}
			o.Cluster.Nodes = []Node{gone, gone}
		}, "nodes", Failure, "none of the 2 other nodes answers: timeout", "cut off"},
		{"node cannot be asked", func(o *Observations) {
			o.Cluster.Nodes[0].Problem, o.Cluster.Nodes[0].Ways = "timeout", []Way{{Network: "tcp", Port: 2377}}
		}, "nodes", Failure, "b (192.0.2.2) cannot be asked: timeout", "swarm doctor"},
		{"another node's disk is full", func(o *Observations) { o.Cluster.Nodes[0].Unavailable = "its disk is full" }, "nodes", Failure, "b (192.0.2.2) cannot do its work: its disk is full", "mend this on b"},
		{"way out blocked", func(o *Observations) {
			o.Cluster.Nodes[0].Ways = []Way{{Network: "udp", Port: 4789, For: "overlay networks", Reason: "nothing came"}}
		}, "nodes", Failure, "4789/udp (overlay networks) is not reached from this host to b", "firewall of b"},
		{"way in blocked", func(o *Observations) {
			o.Cluster.Nodes[0].Ways = []Way{{Network: "tcp", Port: 2377, For: "the cluster", In: true, Reason: "timeout"}}
		}, "nodes", Failure, "is not reached from b (192.0.2.2) to this host", "firewall of this host"},
		{"large packets lost", func(o *Observations) {
			o.Cluster.Nodes[0].Ways = []Way{{Network: "udp", Port: 4789, Bytes: 1500, Reason: "nothing came"}}
		}, "nodes", Failure, "packets of 1500 bytes", "MTU"},
		{"clock ahead", func(o *Observations) { o.Cluster.Nodes[0].Offset = 2 * time.Second }, "nodes", Warning, "2s ahead of", "chrony"},
		{"clock far behind", func(o *Observations) { o.Cluster.Nodes[0].Offset = -time.Hour }, "nodes", Failure, "behind", "chrony"},
		{"clock within a slow round trip", func(o *Observations) {
			o.Cluster.Nodes[0].Offset, o.Cluster.Nodes[0].RoundTrip = 2*time.Second, 4*time.Second
		}, "nodes", OK, "both directions", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := well()
			tc.spoil(&o)
			findings := Judge(o)
			for _, f := range findings {
				if f.Subject != tc.subject || f.Level != tc.level || !strings.Contains(f.Text, tc.text) {
					continue
				}
				if !strings.Contains(f.Remedy, tc.remedy) || (tc.remedy == "") != (f.Remedy == "") {
					t.Errorf("got remedy %q, want one with %q", f.Remedy, tc.remedy)
				}
				if strings.Contains(f.Text+f.Remedy, "\n") {
					t.Errorf("more than one line: %+v", f)
				}
				if broken(findings) != (tc.level == Failure) {
					t.Errorf("broken is %t: %+v", broken(findings), findings)
				}
				return
			}
			t.Errorf("got %+v, want a %s of %s with %q", findings, tc.level, tc.subject, tc.text)
		})
	}
}

// broken tells whether something does not work.
func broken(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Level == Failure })
}
