//go:build linux

package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// effect is what a container sees of one part of its spec.
type effect struct {
	name   string
	script string
	edit   func(*engine.Container) // nil: nothing is asked for
	want   string
}

func container(edit func(*swarmv1.ContainerSpec)) func(*engine.Container) {
	return func(c *engine.Container) { edit(c.Spec()) }
}

func mount(m *swarmv1.Mount) func(*engine.Container) {
	return container(func(s *swarmv1.ContainerSpec) { s.Mounts = append(s.Mounts, m) })
}

func resources(c *engine.Container) *swarmv1.ResourceRequirements {
	return c.Revision.GetSpec().GetTaskTemplate().GetResources()
}

// either returns the value for the host's version of cgroups.
func either(v1, v2 string) string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return v2
	}
	return v1
}

// swapLimit returns how the kernel shows limits of memory and swap. The first version of cgroups
// shows their sum.
func swapLimit(memory, swap int64) string {
	return either(fmt.Sprint(memory+swap), fmt.Sprint(swap))
}

// unconfined is what a process reads about itself without AppArmor.
func unconfined() string {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err == nil {
		return "unconfined"
	}
	return "none"
}

// effects has rows for all parts of the spec. dir is a folder of the host, and seccomp is the
// kernel's number for filtering.
func effects(dir string, seccomp int) []effect {
	return slices.Concat(processEffects(), privilegeEffects(seccomp), mountEffects(dir), limitEffects())
}

func processEffects() []effect {
	return []effect{
		{"environment", `echo "$FROM_IMAGE $CHANGED $ADDED $HOSTNAME $HOME ${PATH}"`, container(func(s *swarmv1.ContainerSpec) {
			s.Env = []string{"CHANGED=yes", "ADDED=1"}
		}), "yes yes 1 box /root /bin:/sbin"},
		{"environment taken away", `echo "[$FROM_IMAGE]"`, container(func(s *swarmv1.ContainerSpec) { s.Env = []string{"FROM_IMAGE"} }), "[]"},
		{"arguments for the image's entrypoint", "", container(func(s *swarmv1.ContainerSpec) {
			s.Command, s.Args = nil, []string{"echo given"}
		}), "given"},
		{"the image's command", "", container(func(s *swarmv1.ContainerSpec) { s.Command = nil }), "from the image"},
		{"the image's folder", "pwd", nil, "/srv"},
		{"folder", "pwd", container(func(s *swarmv1.ContainerSpec) { s.Dir = "/made/new" }), "/made/new"},
		{"hostname", "hostname", nil, "box"},
		{"user by name", "id -u; id -g; id -G; echo $HOME", container(func(s *swarmv1.ContainerSpec) {
			s.User, s.Groups = "alice", []string{"extra", "4000"}
		}), "1000\n1001\n1001 2000 3000 4000\n/home/alice"},
		{"user by number", "id -u; id -g", container(func(s *swarmv1.ContainerSpec) { s.User = "1234:10" }), "1234\n10"},
		{"root's groups", "id -G", nil, "0 10"},
		{"bounded terminals", `grep devpts /proc/mounts | grep -o max=.*[0-9] | cut -d" " -f1`, nil, "max=256"},
		{"terminal", "tty; echo $TERM", container(func(s *swarmv1.ContainerSpec) { s.Tty = true }), "/dev/pts/0\r\nxterm\r"},
		{"open input", "read line & sleep 0.2; kill %1 && echo still open", container(func(s *swarmv1.ContainerSpec) { s.OpenStdin = true }), "still open"},
		{"closed input", "read line || echo closed", nil, "closed"},
		{"init", "cat /proc/1/comm; [ $$ = 1 ] || echo not the first", container(func(s *swarmv1.ContainerSpec) { s.Init = proto.Bool(true) }), "swarm-init\nnot the first"},
	}
}

func privilegeEffects(seccomp int) []effect {
	return []effect{
		{"default capabilities", "grep CapBnd /proc/self/status", nil, "CapBnd:\t00000000a80425fb"},
		{"capabilities added and dropped", "grep CapEff /proc/self/status", container(func(s *swarmv1.ContainerSpec) {
			s.CapabilityDrop, s.CapabilityAdd = []string{"all"}, []string{"chown", "CAP_NET_ADMIN"}
		}), "CapEff:\t0000000000001001"},
		{"no capabilities of another user", "grep CapEff /proc/self/status", container(func(s *swarmv1.ContainerSpec) { s.User = "alice" }), "CapEff:\t0000000000000000"},
		{"new privileges", "grep NoNewPrivs /proc/self/status", container(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{NoNewPrivileges: true}
		}), "NoNewPrivs:\t1"},
		{"default seccomp profile", "grep Seccomp: /proc/self/status", nil, fmt.Sprintf("Seccomp:\t%d", seccomp)},
		{"unconfined", "grep Seccomp: /proc/self/status", container(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{Seccomp: &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_UNCONFINED}}
		}), "Seccomp:\t0"},
		{"privileged", "mount | grep -c ' /sys/.*ro,'; ls /dev/kmsg; echo 1 > /proc/sys/kernel/panic_on_oops 2>&1 && echo writable", container(func(s *swarmv1.ContainerSpec) {
			s.Privileged = true
		}), "0\n/dev/kmsg\nwritable"},
		{"masked paths", "wc -c < /proc/keys; echo x > /proc/sys/kernel/hostname", nil, "0"},
		{"devices", "stat -c %t:%T /dev/there; head -c 3 /dev/there | wc -c", container(func(s *swarmv1.ContainerSpec) {
			s.Devices = []*swarmv1.DeviceMapping{{PathOnHost: "/dev/zero", PathInContainer: "/dev/there", CgroupPermissions: "r"}}
		}), "1:5\n3"},
		{"sysctl", "cat /proc/sys/kernel/shm_rmid_forced", container(func(s *swarmv1.ContainerSpec) {
			s.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
		}), "1"},
		{"custom seccomp profile", "mkdir /made; mkdir /x 2>&1 | grep -o 'Operation not permitted'", container(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{Seccomp: &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_CUSTOM, Profile: []byte(
				`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)}}
		}), "Operation not permitted"},
		{"AppArmor switched off", "cat /proc/self/attr/current 2>/dev/null || echo none", container(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{Apparmor: &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_DISABLED}}
		}), unconfined()},
	}
}

func mountEffects(dir string) []effect {
	return []effect{
		{"read-only", "touch /new && echo written", container(func(s *swarmv1.ContainerSpec) { s.ReadOnly = true }), ""},
		{"bind", "cat /mnt/file; echo new > /mnt/made && cat /mnt/made", mount(&swarmv1.Mount{Source: dir, Target: "/mnt"}), "of the host\nnew"},
		{"read-only bind", "echo new > /mnt/other || echo refused", mount(&swarmv1.Mount{Source: dir, Target: "/mnt", ReadOnly: true}), "refused"},
		{"bind made", "ls /mnt | wc -l", mount(&swarmv1.Mount{
			Source: filepath.Join(dir, "absent"), Target: "/mnt", BindOptions: &swarmv1.BindOptions{CreateMountpoint: true},
		}), "0"},
		{"tmpfs", "stat -f -c %T /cache; stat -c %a /cache; df -k /cache | tail -1 | awk '{print $2}'", mount(&swarmv1.Mount{
			Type: swarmv1.Mount_TMPFS, Target: "/cache", TmpfsOptions: &swarmv1.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700},
		}), "tmpfs\n700\n1024"},
		{"the image's volume", "cat /data/seed; stat -c '%a %u' /data/seed; mount | grep -c ' /data '", nil, "seed\n640 7\n1"},
		{"shared memory", "df -k /dev/shm | tail -1 | awk '{print $2}'", container(func(s *swarmv1.ContainerSpec) { s.ShmSize = 2 << 20 }), "2048"},
		{"hosts", "cat /etc/hosts", func(c *engine.Container) { c.HostsFile = filepath.Join(dir, "hosts") }, "192.0.2.1 friend"},
		{"files", "cat /run/secrets/s /etc/app.conf; stat -c '%a %u %g' /run/secrets/s; stat -f -c %T /run/secrets/s", func(c *engine.Container) {
			c.Files = []engine.File{
				{Path: "/run/secrets/s", Data: []byte("hush\n"), UID: "alice", GID: "2000", Mode: 0o440},
				{Path: "/etc/app.conf", Data: []byte("key = value\n"), Mode: 0o644},
			}
		}, "hush\nkey = value\n440 1000 2000\ntmpfs"},
		{"files are read-only", "echo x > /run/secrets/s || echo refused", func(c *engine.Container) {
			c.Files = []engine.File{{Path: "/run/secrets/s", Mode: 0o666}}
		}, "refused"},
		{"bind's propagation", "grep -o ' /mnt .*master:' /proc/self/mountinfo | wc -l", mount(&swarmv1.Mount{
			Source: filepath.Join(dir, "below"), Target: "/mnt", BindOptions: &swarmv1.BindOptions{Propagation: "rslave"},
		}), "1"},
		{"bind of one file system alone", "ls /mnt/below | wc -l", mount(&swarmv1.Mount{
			Source: dir, Target: "/mnt", BindOptions: &swarmv1.BindOptions{NonRecursive: true},
		}), "0"},
		{"bind of all below", "ls /mnt/below", mount(&swarmv1.Mount{Source: dir, Target: "/mnt"}), "inside"},
		{"a read-only bind is so below", "touch /mnt/below/x 2>/dev/null || echo refused; ls /mnt/below", mount(&swarmv1.Mount{
			Source: dir, Target: "/mnt", ReadOnly: true,
		}), "refused\ninside"},
		{"tmpfs's options", "cp /bin/busybox /cache/busybox && /cache/busybox sh -c 'echo runs'; grep -o ' /cache .*' /proc/self/mountinfo | grep -o uid=5", mount(&swarmv1.Mount{
			Type: swarmv1.Mount_TMPFS, Target: "/cache", TmpfsOptions: &swarmv1.TmpfsOptions{Options: []string{"exec", "uid=5"}},
		}), "runs\nuid=5"},
		{"volume without the image's files", "ls /data | wc -l", mount(&swarmv1.Mount{
			Type: swarmv1.Mount_VOLUME, Target: "/data", VolumeOptions: &swarmv1.VolumeOptions{NoCopy: true},
		}), "0"},
		{"a part of a volume", "cat /data/seed; grep -o '_data/a/b /data ' /proc/self/mountinfo", mount(&swarmv1.Mount{
			Type: swarmv1.Mount_VOLUME, Source: "parts", Target: "/data", VolumeOptions: &swarmv1.VolumeOptions{Subpath: "a/b"},
		}), "seed\n_data/a/b /data "},
	}
}

func limitEffects() []effect {
	swap, swappiness := int64(16<<20), int64(7)
	return []effect{
		{"ulimits", "ulimit -n; ulimit -Hn", container(func(s *swarmv1.ContainerSpec) {
			s.Ulimits = []*swarmv1.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}
		}), "100\n200"},
		{"oom score", "cat /proc/self/oom_score_adj", container(func(s *swarmv1.ContainerSpec) { s.OomScoreAdj = 321 }), "321"},
		{"memory limit", cgroupFile("memory", "memory.limit_in_bytes", "memory.max"), func(c *engine.Container) {
			resources(c).Limits = limits(0, 64<<20, 0)
		}, "67108864"},
		{"cpu limit", cgroupFile("cpu", "cpu.cfs_quota_us", "cpu.max"), func(c *engine.Container) {
			resources(c).Limits = limits(250_000_000, 0, 0)
		}, "25000"},
		{"pids limit", cgroupFile("pids", "pids.max", "pids.max"), func(c *engine.Container) {
			resources(c).Limits = limits(0, 0, 20)
		}, "20"},
		{"memory and swap", cgroupFile("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), func(c *engine.Container) {
			r := resources(c)
			r.Limits, r.SwapBytes = limits(0, 64<<20, 0), &swap
		}, swapLimit(64<<20, swap)},
		{"swappiness", cgroupFile("memory", "memory.swappiness", "cgroup.type"), func(c *engine.Container) {
			resources(c).MemorySwappiness = &swappiness
		}, either("7", "domain")},
		{"memory reservation", cgroupFile("memory", "memory.soft_limit_in_bytes", "memory.low"), func(c *engine.Container) {
			resources(c).Reservations = limits(0, 32<<20, 0)
		}, "33554432"},
	}
}
