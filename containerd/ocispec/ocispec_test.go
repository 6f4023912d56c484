//go:build linux

package ocispec

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

func input(c *swarmv1.ContainerSpec) Input {
	return Input{
		Container: engine.Container{
			Task: &swarmv1.Task{Id: "t1"},
			Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
				ContainerSpec: c, Resources: &swarmv1.ResourceRequirements{},
			}}},
			Netns: "/run/netns/t1",
		},
		Image: imagespec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}},
		Host:  Host{Seccomp: true, SwapLimit: true},
		Init:  "/bin/swarm",
	}
}

func TestCommand(t *testing.T) {
	image := imagespec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}}
	for _, c := range []struct {
		command, args []string
		image         imagespec.ImageConfig
		want          []string
	}{
		{nil, nil, image, []string{"/entry", "default"}},
		{nil, []string{"a"}, image, []string{"/entry", "a"}},
		{[]string{"/own"}, nil, image, []string{"/own"}},
		{[]string{"/own"}, []string{"a"}, image, []string{"/own", "a"}},
		{nil, nil, imagespec.ImageConfig{}, nil},
	} {
		got, err := command(&swarmv1.ContainerSpec{Command: c.command, Args: c.args}, c.image)
		if !slices.Equal(got, c.want) || (err != nil) != (c.want == nil) {
			t.Errorf("command %q, args %q: got %q, %v, want %q", c.command, c.args, got, err, c.want)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := MergeEnv([]string{"A=1", "B=2", "AB=3"}, []string{"A=9", "B", "C=4", "ABSENT", "=x"})
	if want := []string{"A=9", "AB=3", "C=4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCapabilitySet(t *testing.T) {
	possible := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}
	for _, c := range []struct {
		add, drop  []string
		privileged bool
		want       []string
	}{
		{add: []string{"ALL"}, drop: []string{"kill"}, want: []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}},
		{add: []string{"chown"}, drop: []string{"all"}, want: []string{"CAP_CHOWN"}},
		{add: []string{"ALL"}, drop: []string{"ALL"}, want: []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}},
		{privileged: true, drop: []string{"ALL"}, want: possible},
	} {
		got, err := capabilitySet(&swarmv1.ContainerSpec{CapabilityAdd: c.add, CapabilityDrop: c.drop, Privileged: c.privileged}, possible)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("add %q, drop %q: got %q, %v, want %q", c.add, c.drop, got, err, c.want)
		}
	}
}

func TestBuild_Refuses(t *testing.T) {
	for name, c := range map[string]*swarmv1.ContainerSpec{
		"unknown capability":   {CapabilityAdd: []string{"FLY"}},
		"unknown ulimit":       {Ulimits: []*swarmv1.Ulimit{{Name: "patience"}}},
		"soft above hard":      {Ulimits: []*swarmv1.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}},
		"relative target":      {Mounts: []*swarmv1.Mount{{Source: "/s", Target: "t"}}},
		"root as target":       {Mounts: []*swarmv1.Mount{{Source: "/s", Target: "/t/.."}}},
		"relative bind source": {Mounts: []*swarmv1.Mount{{Source: "s", Target: "/t"}}},
		"equal targets":        {Mounts: []*swarmv1.Mount{{Source: "/a", Target: "/t"}, {Source: "/b", Target: "/t/"}}},
		"image mount":          {Mounts: []*swarmv1.Mount{{Type: swarmv1.Mount_IMAGE, Target: "/t"}}},
		"odd propagation":      {Mounts: []*swarmv1.Mount{{Source: "/s", Target: "/t", BindOptions: &swarmv1.BindOptions{Propagation: "sideways"}}}},
		"absent device":        {Devices: []*swarmv1.DeviceMapping{{PathOnHost: "/dev/absent"}}},
		"odd device access":    {Devices: []*swarmv1.DeviceMapping{{PathOnHost: "/dev/null", CgroupPermissions: "x"}}},
		"absent user":          {User: "bob"},
		"absent group":         {Groups: []string{"players"}},
		"broken profile":       {Privileges: &swarmv1.Privileges{Seccomp: &swarmv1.SeccompOpts{Mode: swarmv1.SeccompOpts_CUSTOM, Profile: []byte("{")}}},
		"AppArmor that is not": {Privileges: &swarmv1.Privileges{Apparmor: &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_CUSTOM, Profile: "p"}}},
	} {
		if _, err := Build(input(c)); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line of invalid argument", name, err)
		}
	}
}

func TestBuild_OOMScoreIsAlwaysSet(t *testing.T) {
	for _, want := range []int{0, -10, 500} {
		s, err := Build(input(&swarmv1.ContainerSpec{OomScoreAdj: int64(want)}))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Process.OOMScoreAdj; got == nil || *got != want {
			t.Errorf("got %v, want %d", got, want)
		}
	}
}

func TestBuild_ReadOnlyBinds(t *testing.T) {
	for _, c := range []struct {
		mount *swarmv1.Mount
		host  Host
		want  []string
	}{
		{&swarmv1.Mount{}, Host{RecursiveReadOnly: true}, []string{"rbind", "rprivate", "rw"}},
		{&swarmv1.Mount{ReadOnly: true}, Host{RecursiveReadOnly: true}, []string{"rbind", "rprivate", "ro", "rro"}},
		{&swarmv1.Mount{ReadOnly: true}, Host{}, []string{"bind", "rprivate", "ro"}},
		{&swarmv1.Mount{ReadOnly: true, BindOptions: &swarmv1.BindOptions{NonRecursive: true}}, Host{RecursiveReadOnly: true}, []string{"bind", "rprivate", "ro"}},
	} {
		for _, kind := range []swarmv1.Mount_Type{swarmv1.Mount_BIND, swarmv1.Mount_VOLUME} {
			if kind == swarmv1.Mount_VOLUME && c.mount.GetBindOptions() != nil {
				continue
			}
			m := c.mount.CloneVT()
			m.Type, m.Source, m.Target = kind, "/source", "/target"
			in := input(&swarmv1.ContainerSpec{Mounts: []*swarmv1.Mount{m}})
			in.Host, in.Volumes = c.host, map[int]string{0: "/source"}
			s, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/target" })
			if diff := cmp.Diff(c.want, s.Mounts[i].Options); diff != "" {
				t.Errorf("%v on %+v (-want +got):\n%s", m, c.host, diff)
			}
		}
	}
}

func TestBuild_ParentsBeforeChildrenAndFilesLast(t *testing.T) {
	in := input(&swarmv1.ContainerSpec{Mounts: []*swarmv1.Mount{
		{Type: swarmv1.Mount_TMPFS, Target: "/a/b"}, {Type: swarmv1.Mount_TMPFS, Target: "/a"}, {Type: swarmv1.Mount_TMPFS, Target: "/dev/shm"},
	}})
	in.Files = []FileMount{{Source: "/host/0", Target: "/a/b/secret"}}
	in.Anonymous = map[string]string{"/v": "/host/v"}
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.Mounts {
		got = append(got, m.Destination)
	}
	want := []string{"/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/a", "/v", "/a/b", "/dev/shm", "/a/b/secret"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestBuild_Memory(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		limit  int64
		swap   *int64
		swappy *int64
		host   Host
		want   *specs.LinuxMemory
	}{
		{want: nil},
		{limit: 10, host: Host{SwapLimit: true}, want: &specs.LinuxMemory{Limit: n(10), Swap: n(20)}},
		{limit: 10, swap: n(5), host: Host{SwapLimit: true}, want: &specs.LinuxMemory{Limit: n(10), Swap: n(15)}},
		{limit: 10, swap: n(0), host: Host{SwapLimit: true}, want: &specs.LinuxMemory{Limit: n(10), Swap: n(10)}},
		{limit: 10, swap: n(-1), host: Host{SwapLimit: true}, want: &specs.LinuxMemory{Limit: n(10), Swap: n(-1)}},
		{limit: 10, host: Host{}, want: &specs.LinuxMemory{Limit: n(10)}},
		{swappy: n(7), host: Host{Cgroup2: true}, want: nil},
	} {
		in := input(&swarmv1.ContainerSpec{})
		in.Host = c.host
		r := in.Container.Revision.GetSpec().GetTaskTemplate().GetResources()
		r.Limits, r.SwapBytes, r.MemorySwappiness = &swarmv1.Resources{MemoryBytes: c.limit}, c.swap, c.swappy
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, s.Linux.Resources.Memory); diff != "" {
			t.Errorf("limit %d (-want +got):\n%s", c.limit, diff)
		}
	}
}

func TestCustomSeccomp(t *testing.T) {
	profile := `{
		"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
		"archMap": [{"architecture": "` + string(nativeArch()) + `", "subArchitectures": ["SCMP_ARCH_X86"]}, {"architecture": "SCMP_ARCH_MIPS"}],
		"syscalls": [
			{"names": ["read"], "action": "SCMP_ACT_ALLOW"},
			{"name": "write", "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
			{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
			{"names": ["chown"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"], "minKernel": "2.6"}},
			{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
			{"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.0"}},
			{"names": ["foreign"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["z80"]}}
		]}`
	s, err := customSeccomp([]byte(profile), []string{"CAP_CHOWN"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range s.Syscalls {
		names = append(names, c.Names...)
	}
	if want := []string{"read", "write", "chown"}; !slices.Equal(names, want) {
		t.Errorf("system calls: got %q, want %q", names, want)
	}
	if want := []specs.Arch{nativeArch(), specs.ArchX86}; !slices.Equal(s.Architectures, want) {
		t.Errorf("architectures: got %q, want %q", s.Architectures, want)
	}
	if s.DefaultErrnoRet == nil || *s.DefaultErrnoRet != 38 || len(s.Syscalls[1].Args) != 1 {
		t.Errorf("details are lost: %+v", s)
	}
	for name, bad := range map[string]string{
		"no default":     `{}`,
		"no names":       `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}`,
		"name and names": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"]}]}`,
		"odd kernel":     `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "includes": {"minKernel": "new"}}]}`,
		"two arch lists": `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]}`,
	} {
		if _, err := customSeccomp([]byte(bad), nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func FuzzCustomSeccomp(f *testing.F) {
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`))
	f.Fuzz(func(t *testing.T, profile []byte) {
		s, err := customSeccomp(profile, nil)
		if err == nil && s.DefaultAction == "" {
			t.Errorf("%q: accepted without a default", profile)
		}
	})
}

// An image lists its users and groups, and so does a container that a second process starts in.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"), []byte("wheel:x:10:root,alice\n"), "alice:wheel")
	f.Add([]byte("a:x:-1:99999999999::/:\n\n:::::::\n"), []byte("g:x:-7:a\n"), "a")
	f.Fuzz(func(t *testing.T, passwd, group []byte, name string) {
		a := Accounts{Passwd: passwd, Group: group}
		if u, err := a.User(name, nil); err == nil && (u.UID > math.MaxInt32 || u.GID > math.MaxInt32 || len(u.AdditionalGids) == 0) {
			t.Errorf("user %q: got %+v", name, u)
		}
		for _, resolve := range []func(string) (int, error){a.UID, a.GID} {
			if id, err := resolve(name); err == nil && (id < 0 || id > math.MaxInt32) {
				t.Errorf("%q: got %d", name, id)
			}
		}
	})
}

// Not every kernel has AppArmor or SELinux, so the test checks what runc is told.
func TestBuild_ConfinementByTheKernelsModules(t *testing.T) {
	for name, c := range map[string]struct {
		spec              *swarmv1.ContainerSpec
		apparmor, selinux string
	}{
		"default":    {&swarmv1.ContainerSpec{}, "swarm-default", ""},
		"privileged": {&swarmv1.ContainerSpec{Privileged: true}, "unconfined", ""},
		"disabled": {&swarmv1.ContainerSpec{Privileges: &swarmv1.Privileges{
			Apparmor: &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_DISABLED}, SelinuxContext: &swarmv1.SELinuxContext{Disable: true, Type: "t"},
		}}, "unconfined", ""},
		"custom": {&swarmv1.ContainerSpec{Privileges: &swarmv1.Privileges{
			Apparmor: &swarmv1.AppArmorOpts{Mode: swarmv1.AppArmorOpts_CUSTOM, Profile: "tight"}, SelinuxContext: &swarmv1.SELinuxContext{User: "u", Role: "r", Type: "t", Level: "s0:c1"},
		}}, "tight", "u:r:t:s0:c1"},
		"type alone": {&swarmv1.ContainerSpec{Privileges: &swarmv1.Privileges{SelinuxContext: &swarmv1.SELinuxContext{Type: "t"}}}, "swarm-default", "system_u:system_r:t:s0"},
	} {
		in := input(c.spec)
		in.Host.AppArmor = "swarm-default"
		s, err := Build(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Process.ApparmorProfile != c.apparmor || s.Process.SelinuxLabel != c.selinux {
			t.Errorf("%s: got %q and %q, want %q and %q", name, s.Process.ApparmorProfile, s.Process.SelinuxLabel, c.apparmor, c.selinux)
		}
	}
}

// The time for many variables grows with their number, not with its square.
func TestMergeEnv_Many(t *testing.T) {
	const many = 200_000
	changes := make([]string, 0, 2*many)
	for i := range many {
		changes = append(changes, fmt.Sprintf("N%d=1", i))
	}
	for i := range many - 1 {
		changes = append(changes, fmt.Sprintf("N%d", i))
	}
	if got := MergeEnv(nil, changes); len(got) != 1 || got[0] != "N199999=1" {
		t.Errorf("got %d variables, want the last one", len(got))
	}
}

func TestBuild_MasksThrottling(t *testing.T) {
	const folder = "/sys/devices/system/cpu/cpu0/thermal_throttle"
	for _, privileged := range []bool{false, true} {
		in := input(&swarmv1.ContainerSpec{Privileged: privileged})
		in.Host.Throttling = []string{folder}
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		if masked := slices.Contains(s.Linux.MaskedPaths, folder); masked == privileged {
			t.Errorf("privileged %v: masked %v", privileged, masked)
		}
	}
}
