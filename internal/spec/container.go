package spec

import (
	"cmp"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	maxHostname    = 63
	minOOMScoreAdj = -1000
	maxOOMScoreAdj = 1000
	maxMode        = 0o7777
)

func checkContainer(c *swarmv1.ContainerSpec) error {
	if c == nil {
		return invalid("container spec is missing: name an image")
	}
	if _, err := ParseImage(c.GetImage()); err != nil {
		return err
	}
	return firstError(
		checkLabels("container", c.GetLabels()),
		checkTextSize(c),
		checkEnv(c.GetEnv()),
		checkHostname(c.GetHostname()),
		checkAbsolute("working directory", c.GetDir()),
		checkUser(c.GetUser()),
		checkGroups(c.GetGroups()),
		checkIsolation(c.GetIsolation()),
		checkMounts(c.GetMounts()),
		checkFiles(c),
		checkHealth(c.GetHealthcheck()),
		checkSignal("stop signal", c.GetStopSignal()),
		checkDuration("stop grace period", c.GetStopGracePeriod()),
		checkCapabilities(c),
		checkSysctls(c.GetSysctls()),
		checkDevices(c.GetDevices()),
		checkUlimits(c.GetUlimits()),
		checkNumbers(c),
		checkPlatform(c.GetPlatform()))
}

// checkTextSize limits the text that goes into every task of a service and into the process of its
// container.
func checkTextSize(c *swarmv1.ContainerSpec) error {
	if over := TooMuchText(c.GetEnv(), c.GetCommand(), c.GetArgs(), c.GetHealthcheck().GetTest()); over != "" {
		return invalid("service has %s: keep large data in a volume or in the image", over)
	}
	return nil
}

func checkEnv(env []string) error {
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		if key == "" || strings.ContainsRune(e, 0) {
			return invalid("environment %s is not valid: write KEY=VALUE", quote(e))
		}
	}
	return nil
}

// checkHostname accepts templates, which are expanded for each task.
func checkHostname(h string) error {
	if h == "" || strings.Contains(h, "{{") {
		return nil
	}
	if len(h) > maxHostname {
		return invalid("hostname %s is too long: %d characters, at most %d are allowed", quote(h), len(h), maxHostname)
	}
	for i := range len(h) {
		c := h[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (c != '-' && c != '.' && c != '_' || i == 0 || i == len(h)-1) {
			return invalid("hostname %s is not valid: use letters, digits, - and . , with a letter or digit at both ends", quote(h))
		}
	}
	if strings.Contains(h, "..") {
		return invalid("hostname %s is not valid: there is nothing between two of its dots", quote(h))
	}
	return nil
}

func checkAbsolute(what, p string) error {
	if p != "" && !path.IsAbs(p) {
		return invalid("%s %s is not absolute: begin it with /", what, quote(p))
	}
	return nil
}

// checkUser accepts every user name. The node finds out whether the image has it.
func checkUser(u string) error {
	name, group, _ := strings.Cut(u, ":")
	if u != "" && (!isAccount(name) && name != "" || !isAccount(group) && group != "") {
		return invalid("user %s is not valid: write NAME or UID, or one of them with :GROUP or :GID", quote(u))
	}
	return nil
}

func checkGroups(groups []string) error {
	for _, g := range groups {
		if !isAccount(g) {
			return invalid("group %s is not valid: write NAME or GID", quote(g))
		}
	}
	return nil
}

// isAccount reports whether s can be a number or name in /etc/passwd or /etc/group. No name there
// begins with a dash, so that -1 is not looked up as a name.
func isAccount(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsAny(s, ": \t\n")
}

func checkIsolation(i string) error {
	if i != "" && i != "default" {
		return invalid("isolation %s is for Windows: leave it out", quote(i))
	}
	return nil
}

func checkMounts(mounts []*swarmv1.Mount) error {
	seen := make(map[string]bool, len(mounts))
	for _, m := range mounts {
		if err := checkMount(m); err != nil {
			return err
		}
		target := path.Clean(m.GetTarget())
		if seen[target] {
			return invalid("mount target %s is used twice: mount one thing there", quote(target))
		}
		seen[target] = true
	}
	return nil
}

func checkMount(m *swarmv1.Mount) error {
	if m.GetTarget() == "" {
		return invalid("mount of %s has no target: say where in the container, target=/PATH", quote(m.GetSource()))
	}
	if err := checkAbsolute("mount target", m.GetTarget()); err != nil {
		return err
	}
	if path.Clean(m.GetTarget()) == "/" {
		return invalid("mount target / would hide the image: mount below it")
	}
	if t := path.Clean(m.GetTarget()); t == "/proc" || strings.HasPrefix(t, "/proc/") {
		return invalid("mount target %s is in /proc, which the kernel fills: mount elsewhere", quote(m.GetTarget()))
	}
	switch m.GetType() {
	case swarmv1.Mount_BIND:
		if m.GetSource() == "" {
			return invalid("bind mount at %s has no source: say which path of the node, source=/PATH", quote(m.GetTarget()))
		}
		if err := checkAbsolute("bind mount source", m.GetSource()); err != nil {
			return err
		}
		return checkPropagation(m.GetBindOptions().GetPropagation())
	case swarmv1.Mount_VOLUME:
		if strings.ContainsRune(m.GetSource(), '/') {
			return invalid("volume name %s holds a slash: use type=bind for a path of the node", quote(m.GetSource()))
		}
		driver := m.GetVolumeOptions().GetDriverConfig()
		if err := CheckVolumeDriver("volume at "+quote(m.GetTarget()), driver); err != nil {
			return err
		}
		if len(driver.GetOptions()) > 0 && m.GetSource() == "" {
			return invalid("volume at %s has driver options and no name: add source=NAME", quote(m.GetTarget()))
		}
		if sub := m.GetVolumeOptions().GetSubpath(); slices.Contains(strings.Split(sub, "/"), "..") {
			return invalid("subpath %s leads out of the volume: use a path in it", quote(sub))
		}
		// A volume without a name belongs to its task. A template is expanded for each task.
		if name := m.GetSource(); name != "" && !strings.Contains(name, "{{") {
			return ident.CheckVolumeName(name)
		}
	case swarmv1.Mount_TMPFS:
		if m.GetSource() != "" {
			return invalid("tmpfs mount at %s has a source, %s, but it starts empty: leave the source out", quote(m.GetTarget()), quote(m.GetSource()))
		}
		if m.GetTmpfsOptions().GetSizeBytes() < 0 {
			return invalid("tmpfs size %d at %s is negative: use 0 for no limit", m.GetTmpfsOptions().GetSizeBytes(), quote(m.GetTarget()))
		}
	case swarmv1.Mount_IMAGE:
		return invalid("mount of image %s at %s: nodes cannot mount images yet: use bind, volume or tmpfs", quote(m.GetSource()), quote(m.GetTarget()))
	default:
		return invalid("mount type %d at %s is not known: use bind, volume or tmpfs", m.GetType(), quote(m.GetTarget()))
	}
	return nil
}

func checkPropagation(p string) error {
	switch p {
	case "", "private", "rprivate", "shared", "rshared", "slave", "rslave":
		return nil
	}
	return invalid("bind propagation %s is not known: use private, rprivate, shared, rshared, slave or rslave", quote(p))
}

func checkHealth(h *swarmv1.HealthConfig) error {
	if h == nil {
		return nil
	}
	if t := h.GetTest(); len(t) > 0 {
		least := map[string]int{"NONE": 1, "CMD": 2, "CMD-SHELL": 2, "HTTP": 2, "TCP": 2, "GRPC": 2}[t[0]]
		if least == 0 {
			return invalid("health check %s is not known: begin it with NONE, CMD, CMD-SHELL, HTTP, TCP or GRPC", quote(t[0]))
		}
		if len(t) < least {
			return invalid("health check %s has nothing to run: name what to check after it", t[0])
		}
		if err := checkHealthAddress(t); err != nil {
			return err
		}
	}
	return firstError(
		checkInterval("health interval", h.GetInterval()),
		checkInterval("health timeout", h.GetTimeout()),
		checkInterval("health start period", h.GetStartPeriod()),
		checkInterval("health start interval", h.GetStartInterval()))
}

// minInterval is the shortest interval of a health check, as in Docker. Shorter ones keep the node
// busy with checks.
const minInterval = time.Millisecond

// checkInterval is checkDuration for the durations of a health check, where 0 means the default.
func checkInterval(what string, d *durationpb.Duration) error {
	if err := checkDuration(what, d); err != nil {
		return err
	}
	if v := d.AsDuration(); v != 0 && v < minInterval {
		return invalid("%s %s is too short: use %s or more", what, v, minInterval)
	}
	return nil
}

// checkHealthAddress checks the address of an HTTP, TCP or GRPC health check.
func checkHealthAddress(test []string) error {
	switch test[0] {
	case "HTTP":
		address := test[1]
		if !strings.Contains(address, "://") {
			address = "http://" + address
		}
		if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return invalid("health check address %s is not a URL: write it like http://localhost:8080/healthy", quote(test[1]))
		}
	case "TCP", "GRPC":
		at := strings.LastIndexByte(test[1], ':')
		if port, err := strconv.ParseUint(test[1][at+1:], 10, 16); at < 0 || err != nil || port == 0 {
			return invalid("health check address %s is not HOST:PORT: write it like localhost:8080", quote(test[1]))
		}
	}
	return nil
}

// checkSignal accepts names with and without SIG, and numbers. The node finds out whether its
// kernel has the signal.
func checkSignal(what, s string) error {
	if s == "" {
		return nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return invalid("%s %d is out of range: use 1 to 64 or a name like SIGTERM", what, n)
		}
		return nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	name, _, _ = strings.Cut(name, "+")
	name, _, _ = strings.Cut(name, "-")
	if !signals[name] {
		return invalid("%s %s is not known: use a name like SIGTERM or a number from 1 to 64", what, quote(s))
	}
	return nil
}

// signals has the signal names of Linux without SIG.
var signals = set("ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT RTMAX RTMIN SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ")

func set(words string) map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		out[w] = true
	}
	return out
}

func checkCapabilities(c *swarmv1.ContainerSpec) error {
	for _, list := range [][]string{c.GetCapabilityAdd(), c.GetCapabilityDrop()} {
		for _, k := range list {
			if name := strings.TrimPrefix(strings.ToUpper(k), "CAP_"); name != "ALL" && !capabilities[name] {
				return invalid("capability %s is not known: use a name such as CAP_NET_ADMIN, or ALL", quote(k))
			}
		}
	}
	return nil
}

// capabilities has the capability names of Linux without CAP_.
var capabilities = set("AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM")

// checkSysctls accepts the settings that a container has for itself. Other settings belong to the
// whole host, and nodes do not set them.
func checkSysctls(m map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		name := strings.ReplaceAll(key, "/", ".")
		if !strings.HasPrefix(name, "net.") && !strings.HasPrefix(name, "fs.mqueue.") && !ownSysctls[name] {
			return invalid("sysctl %s is a setting of the host, not of the container: use net.*, fs.mqueue.*, or one of %s", quote(key), sortedKeys(ownSysctls))
		}
	}
	return nil
}

// ownSysctls are the settings of the IPC and UTS namespaces.
var ownSysctls = set("kernel.domainname kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni kernel.shm_rmid_forced")

func checkDevices(list []*swarmv1.DeviceMapping) error {
	seen := make(map[string]bool, len(list))
	for _, d := range list {
		if d.GetPathOnHost() == "" {
			return invalid("device has no path: write it like /dev/fuse")
		}
		if err := firstError(checkAbsolute("device", d.GetPathOnHost()), checkAbsolute("device", d.GetPathInContainer())); err != nil {
			return err
		}
		if p := d.GetCgroupPermissions(); strings.Trim(p, "rwm") != "" {
			return invalid("device permissions %s of %s are not valid: use letters of rwm", quote(p), quote(d.GetPathOnHost()))
		}
		inside := path.Clean(cmp.Or(d.GetPathInContainer(), d.GetPathOnHost()))
		if seen[inside] {
			return invalid("device %s is named twice: give each device another path in the container", quote(inside))
		}
		seen[inside] = true
	}
	return nil
}

func checkUlimits(list []*swarmv1.Ulimit) error {
	for _, u := range list {
		if u.GetName() == "" {
			return invalid("ulimit has no name: write it like nofile=1024:2048")
		}
		if u.GetSoft() < -1 || u.GetHard() < -1 {
			return invalid("ulimit %s is negative: use 0 or more, or -1 for no limit", quote(u.GetName()))
		}
		if u.GetHard() != -1 && (u.GetSoft() > u.GetHard() || u.GetSoft() == -1) {
			return invalid("ulimit %s has a soft limit, %d, above its hard limit, %d: raise the hard one", quote(u.GetName()), u.GetSoft(), u.GetHard())
		}
	}
	return nil
}

func checkNumbers(c *swarmv1.ContainerSpec) error {
	if c.GetShmSize() < 0 {
		return invalid("shm size %d is negative: use 0 for 64 MiB", c.GetShmSize())
	}
	if o := c.GetOomScoreAdj(); o < minOOMScoreAdj || o > maxOOMScoreAdj {
		return invalid("oom score adjustment %d is out of range: use %d to %d", o, minOOMScoreAdj, maxOOMScoreAdj)
	}
	return nil
}

// checkPlatform checks a platform of the form "os/arch[/variant]".
func checkPlatform(p string) error {
	if p == "" {
		return nil
	}
	parts := strings.Split(p, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return invalid("platform %s is not valid: write it like linux/amd64", quote(p))
	}
	if parts[0] != "linux" {
		return invalid("platform %s is for %s, and all nodes run linux: leave it out", quote(p), quote(parts[0]))
	}
	return nil
}

// StopGrace returns how long a container may take to stop before it is killed: what the spec says,
// or DefaultStopGracePeriod.
func StopGrace(c *swarmv1.ContainerSpec) time.Duration {
	if d := c.GetStopGracePeriod(); d != nil {
		return d.AsDuration()
	}
	return DefaultStopGracePeriod
}
