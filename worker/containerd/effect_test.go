//go:build linux

package containerd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
)

func limits(nano, memory, pids int64) *swarmv1.Resources {
	return &swarmv1.Resources{NanoCpus: nano, MemoryBytes: memory, Pids: pids}
}

// cgroupFile reads a limit of the container's own cgroup, by its name in either version.
func cgroupFile(controller, v1, v2 string) string {
	return fmt.Sprintf(`if [ -f /sys/fs/cgroup/cgroup.controllers ]; then cat /sys/fs/cgroup/%s; else cat /sys/fs/cgroup/%s/%s; fi`, v2, controller, v1)
}

// seccompMode is what the kernel calls filtering, when runc was built with it.
func seccompMode(n *node) int {
	out, err := exec.Command(n.programs.Runc, "features").Output()
	if err == nil && !strings.Contains(string(out), "SCMP_ACT_ALLOW") {
		return 0
	}
	return 2
}

// Every field of the spec is read back from inside a real container.
func TestRuntime_EffectsOfTheSpec(t *testing.T) {
	n := newNode(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(host, "hosts")
	if err := os.WriteFile(hosts, []byte("192.0.2.1 friend\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	yes := true
	spec := func(edit func(*swarmv1.ContainerSpec)) func(*worker.Container) {
		return func(c *worker.Container) { edit(c.Spec()) }
	}
	mount := func(m *swarmv1.Mount) func(*worker.Container) {
		return spec(func(s *swarmv1.ContainerSpec) { s.Mounts = append(s.Mounts, m) })
	}
	for _, c := range []struct {
		name   string
		script string
		edit   func(*worker.Container)
		want   string
	}{
		{"environment", `echo "$FROM_IMAGE $CHANGED $ADDED $HOSTNAME $HOME ${PATH}"`, spec(func(s *swarmv1.ContainerSpec) {
			s.Env = []string{"CHANGED=yes", "ADDED=1"}
		}), "yes yes 1 box /root /bin:/sbin"},
		{"environment taken away", `echo "[$FROM_IMAGE]"`, spec(func(s *swarmv1.ContainerSpec) { s.Env = []string{"FROM_IMAGE"} }), "[]"},
		{"arguments for the image's entrypoint", "", spec(func(s *swarmv1.ContainerSpec) {
			s.Command, s.Args = nil, []string{"echo given"}
		}), "given"},
		{"the image's command", "", spec(func(s *swarmv1.ContainerSpec) { s.Command = nil }), "from the image"},
		{"the image's folder", "pwd", nil, "/srv"},
		{"folder", "pwd", spec(func(s *swarmv1.ContainerSpec) { s.Dir = "/made/new" }), "/made/new"},
		{"hostname", "hostname", nil, "box"},
		{"user by name", "id -u; id -g; id -G; echo $HOME", spec(func(s *swarmv1.ContainerSpec) {
			s.User, s.Groups = "alice", []string{"extra", "4000"}
		}), "1000\n1001\n1001 2000 3000 4000\n/home/alice"},
		{"user by number", "id -u; id -g", spec(func(s *swarmv1.ContainerSpec) { s.User = "1234:10" }), "1234\n10"},
		{"root's groups", "id -G", nil, "0 10"},
		{"default capabilities", "grep CapBnd /proc/self/status", nil, "CapBnd:\t00000000a80425fb"},
		{"capabilities added and dropped", "grep CapEff /proc/self/status", spec(func(s *swarmv1.ContainerSpec) {
			s.CapabilityDrop, s.CapabilityAdd = []string{"all"}, []string{"chown", "CAP_NET_ADMIN"}
		}), "CapEff:\t0000000000001001"},
		{"no capabilities of another user", "grep CapEff /proc/self/status", spec(func(s *swarmv1.ContainerSpec) { s.User = "alice" }), "CapEff:\t0000000000000000"},
		{"new privileges", "grep NoNewPrivs /proc/self/status", spec(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{NoNewPrivileges: true}
		}), "NoNewPrivs:\t1"},
		{"default seccomp profile", "grep Seccomp: /proc/self/status", nil, fmt.Sprintf("Seccomp:\t%d", seccompMode(n))},
		{"unconfined", "grep Seccomp: /proc/self/status", spec(func(s *swarmv1.ContainerSpec) {
			s.Privileges = &swarmv1.Privileges{Seccomp: &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_UNCONFINED}}
		}), "Seccomp:\t0"},
		{"privileged", "mount | grep -c ' /sys/.*ro,'; ls /dev/kmsg; echo 1 > /proc/sys/kernel/panic_on_oops 2>&1 && echo writable", spec(func(s *swarmv1.ContainerSpec) {
			s.Privileged = true
		}), "0\n/dev/kmsg\nwritable"},
		{"masked paths", "wc -c < /proc/keys; echo x > /proc/sys/kernel/hostname", nil, "0"},
		{"read-only", "touch /new && echo written", spec(func(s *swarmv1.ContainerSpec) { s.ReadOnly = true }), ""},
		{"terminal", "tty; echo $TERM", spec(func(s *swarmv1.ContainerSpec) { s.Tty = true }), "/dev/pts/0\r\nxterm\r"},
		{"open input", "read line & sleep 0.2; kill %1 && echo still open", spec(func(s *swarmv1.ContainerSpec) { s.OpenStdin = true }), "still open"},
		{"closed input", "read line || echo closed", nil, "closed"},
		{"init", "cat /proc/1/comm; [ $$ = 1 ] || echo not the first", spec(func(s *swarmv1.ContainerSpec) { s.Init = &yes }), "swarm-init\nnot the first"},
		{"bind", "cat /mnt/file; echo new > /mnt/made && cat /mnt/made", mount(&swarmv1.Mount{Source: host, Target: "/mnt"}), "of the host\nnew"},
		{"read-only bind", "echo new > /mnt/other || echo refused", mount(&swarmv1.Mount{Source: host, Target: "/mnt", ReadOnly: true}), "refused"},
		{"bind made", "ls /mnt | wc -l", mount(&swarmv1.Mount{
			Source: filepath.Join(host, "absent"), Target: "/mnt", BindOptions: &swarmv1.BindOptions{CreateMountpoint: true},
		}), "0"},
		{"tmpfs", "stat -f -c %T /cache; stat -c %a /cache; df -k /cache | tail -1 | awk '{print $2}'", mount(&swarmv1.Mount{
			Type: swarmv1.Mount_TMPFS, Target: "/cache", TmpfsOptions: &swarmv1.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700},
		}), "tmpfs\n700\n1024"},
		{"the image's volume", "cat /data/seed; stat -c '%a %u' /data/seed; mount | grep -c ' /data '", nil, "seed\n640 7\n1"},
		{"devices", "stat -c %t:%T /dev/there; head -c 3 /dev/there | wc -c", spec(func(s *swarmv1.ContainerSpec) {
			s.Devices = []*swarmv1.DeviceMapping{{PathOnHost: "/dev/zero", PathInContainer: "/dev/there", CgroupPermissions: "r"}}
		}), "1:5\n3"},
		{"sysctl", "cat /proc/sys/kernel/shm_rmid_forced", spec(func(s *swarmv1.ContainerSpec) {
			s.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
		}), "1"},
		{"ulimits", "ulimit -n; ulimit -Hn", spec(func(s *swarmv1.ContainerSpec) {
			s.Ulimits = []*swarmv1.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}}
		}), "100\n200"},
		{"shared memory", "df -k /dev/shm | tail -1 | awk '{print $2}'", spec(func(s *swarmv1.ContainerSpec) { s.ShmSize = 2 << 20 }), "2048"},
		{"oom score", "cat /proc/self/oom_score_adj", spec(func(s *swarmv1.ContainerSpec) { s.OomScoreAdj = 321 }), "321"},
		{"hosts", "cat /etc/hosts", func(c *worker.Container) { c.HostsFile = hosts }, "192.0.2.1 friend"},
		{"files", "cat /run/secrets/s /etc/app.conf; stat -c '%a %u %g' /run/secrets/s; stat -f -c %T /run/secrets/s", func(c *worker.Container) {
			c.Files = []worker.File{
				{Path: "/run/secrets/s", Data: []byte("hush\n"), UID: "alice", GID: "2000", Mode: 0o440, Secret: true},
				{Path: "/etc/app.conf", Data: []byte("key = value\n"), Mode: 0o644},
			}
		}, "hush\nkey = value\n440 1000 2000\ntmpfs"},
		{"files are read-only", "echo x > /run/secrets/s || echo refused", func(c *worker.Container) {
			c.Files = []worker.File{{Path: "/run/secrets/s", Mode: 0o666, Secret: true}}
		}, "refused"},
		{"memory limit", cgroupFile("memory", "memory.limit_in_bytes", "memory.max"), func(c *worker.Container) {
			c.Revision.GetSpec().GetTaskTemplate().Resources.Limits = limits(0, 64<<20, 0)
		}, "67108864"},
		{"cpu limit", cgroupFile("cpu", "cpu.cfs_quota_us", "cpu.max"), func(c *worker.Container) {
			c.Revision.GetSpec().GetTaskTemplate().Resources.Limits = limits(250_000_000, 0, 0)
		}, "25000"},
		{"pids limit", cgroupFile("pids", "pids.max", "pids.max"), func(c *worker.Container) {
			c.Revision.GetSpec().GetTaskTemplate().Resources.Limits = limits(0, 0, 20)
		}, "20"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.t = t
			edit := c.edit
			if edit == nil {
				edit = func(*worker.Container) {}
			}
			out, stderr, e := n.output(n.container(c.script, edit))
			if got := strings.TrimSuffix(out, "\n"); got != c.want {
				t.Errorf("%s\n(-want +got):\n%s\nstderr: %s\nexit: %+v", c.script, cmp.Diff(c.want, got), stderr, e)
			}
		})
	}
	n.t = t
}

func TestRuntime_VolumesOutliveTheirContainers(t *testing.T) {
	n := newNode(t)
	named := func(c *worker.Container) {
		c.Spec().Mounts = []*swarmv1.Mount{
			{Type: swarmv1.Mount_VOLUME, Source: "keep", Target: "/data"},
			{Type: swarmv1.Mount_VOLUME, Target: "/own"},
		}
	}
	first := n.container("cat /data/seed; echo mine > /data/mine; echo gone > /own/f", named)
	if out, stderr, _ := n.output(first); out != "seed\n" {
		t.Errorf("first container: got %q, %q, want the image's file", out, stderr)
	}
	second := n.container("cat /data/mine; ls /own | wc -l", named)
	if out, stderr, _ := n.output(second); out != "mine\n0\n" {
		t.Errorf("second container: got %q, %q, want the first's file in the named volume alone", out, stderr)
	}
}

func TestRuntime_NothingIsLeftOfAContainer(t *testing.T) {
	n := newNode(t)
	n.output(n.container("true", func(c *worker.Container) {
		c.Files = []worker.File{{Path: "/run/secrets/s", Data: []byte("hush"), Secret: true}}
	}))
	for _, pattern := range []string{
		filepath.Join(n.layout.Data, "worker/tasks/*"), filepath.Join(n.layout.Run, "worker/files/*"),
		filepath.Join(n.layout.State(), "exits/*/*"), "/sys/fs/cgroup/*" + n.cgroup + "/task1", "/sys/fs/cgroup" + n.cgroup + "/task1",
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("%s: got %v, %v, want none", pattern, left, err)
		}
	}
	snapshots, err := n.client.SnapshotService("overlayfs").Usage(n.ctx, "task1")
	if err == nil {
		t.Errorf("snapshot: got %+v, want none", snapshots)
	}
}
