package flag_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"swarm/cli/flag"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// The fuzz tests below hold one property for every parser: it never panics, and a value that it
// accepts prints in a form that parses to the same value. The printers of values that the program
// itself never prints are here.

// again checks that the printed form of a value parses to an equal value.
func again[T any](t *testing.T, text, printed string, value T, parse func(string) (T, error), equal func(a, b T) bool) {
	t.Helper()
	got, err := parse(printed)
	if err != nil {
		t.Errorf("%q was accepted, and is %q: %v", text, printed, err)
		return
	}
	if !equal(got, value) {
		t.Errorf("%q prints as %q: got %v, want %v", text, printed, got, value)
	}
}

func equalProto[M proto.Message](a, b M) bool { return proto.Equal(a, b) }

// line prints fields as the flags with KEY=VALUE lists take them.
func line(t *testing.T, fields []string) string {
	t.Helper()
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.Write(fields); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func pairs(key string, m map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+"="+k+"="+m[k])
	}
	return out
}

func portFields(p *swarmv1.PortConfig) []string {
	out := []string{
		fmt.Sprintf("target=%d", p.TargetPort), "protocol=" + p.Protocol.String(), "mode=" + p.PublishMode.String(), "name=" + p.Name,
	}
	if p.PublishedPort != 0 {
		out = append(out, fmt.Sprintf("published=%d", p.PublishedPort))
	}
	if p.HostIp != "" {
		out = append(out, "ip="+p.HostIp)
	}
	return out
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "127.0.0.1:8000-8010:80-90", "[::1]:1:2/sctp", "published=1,target=2,mode=host,protocol=udp,ip=::1", `target=1,"name=a,b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := flag.ParsePorts(s)
		if err != nil {
			return
		}
		for _, p := range ports {
			one := func(s string) (*swarmv1.PortConfig, error) {
				got, err := flag.ParsePorts(s)
				if err == nil && len(got) != 1 {
					err = fmt.Errorf("%d ports", len(got))
				}
				if err != nil {
					return nil, err
				}
				return got[0], nil
			}
			again(t, s, line(t, portFields(p)), p, one, equalProto)
		}
	})
}

func mountFields(m *swarmv1.Mount) []string {
	out := []string{"type=" + m.Type.String(), "source=" + m.Source, "target=" + m.Target, fmt.Sprintf("readonly=%v", m.ReadOnly)}
	if b := m.BindOptions; b != nil {
		out = append(out, fmt.Sprintf("bind-nonrecursive=%v", b.NonRecursive), fmt.Sprintf("bind-create-mountpoint=%v", b.CreateMountpoint))
		if b.Propagation != "" {
			out = append(out, "bind-propagation="+b.Propagation)
		}
	}
	if v := m.VolumeOptions; v != nil {
		out = append(out, fmt.Sprintf("volume-nocopy=%v", v.NoCopy), "volume-subpath="+v.Subpath)
		out = append(out, pairs("volume-label", v.Labels)...)
		if d := v.DriverConfig; d != nil {
			out = append(append(out, "volume-driver="+d.Name), pairs("volume-opt", d.Options)...)
		}
	}
	if o := m.TmpfsOptions; o != nil {
		out = append(out, fmt.Sprintf("tmpfs-size=%d", o.SizeBytes), fmt.Sprintf("tmpfs-mode=%o", o.Mode))
		for _, opt := range o.Options {
			out = append(out, "tmpfs-opt="+opt)
		}
	}
	return out
}

func FuzzMount(f *testing.F) {
	for _, s := range []string{
		"type=bind,source=/a,target=/b,readonly,bind-propagation=rslave,bind-recursive=disabled", "source=data,target=/d,volume-label=a=b,volume-driver=local,volume-opt=o=x",
		"type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777,tmpfs-opt=noexec", `type=bind,src=.,"dst=/a,b"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := flag.ParseMount(s)
		if err != nil {
			return
		}
		again(t, s, line(t, mountFields(m)), m, flag.ParseMount, equalProto)
	})
}

func FuzzNetwork(f *testing.F) {
	for _, s := range []string{"app", "name=app,alias=a,alias=b,driver-opt=k=v,ip=10.0.0.2", `"name=a,b",ip6=::1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := flag.ParseNetwork(s)
		if err != nil || strings.Contains(s, "\r") { // A line of CSV cannot hold every carriage return.
			return
		}
		fields := append([]string{"name=" + n.Target}, pairs("driver-opt", n.DriverOpts)...)
		for _, a := range n.Aliases {
			fields = append(fields, "alias="+a)
		}
		for _, a := range n.Addresses {
			fields = append(fields, "ip="+a)
		}
		again(t, s, line(t, fields), n, flag.ParseNetwork, equalProto)
	})
}

func FuzzFile(f *testing.F) {
	for _, s := range []string{"key", "source=key,target=/run/key,uid=1,gid=2,mode=0400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "\r") {
			return
		}
		fields := func(source string, f *swarmv1.FileTarget) string {
			return line(t, []string{"source=" + source, "target=" + f.Name, "uid=" + f.Uid, "gid=" + f.Gid, fmt.Sprintf("mode=%#o", f.Mode)})
		}
		if secret, err := flag.ParseSecret(s); err == nil {
			again(t, s, fields(secret.Name, secret.File), secret, flag.ParseSecret, equalProto)
		}
		if config, err := flag.ParseConfig(s); err == nil {
			again(t, s, fields(config.Name, config.File), config, flag.ParseConfig, equalProto)
		}
	})
}

func FuzzResources(f *testing.F) {
	for _, s := range []string{"nofile=1:2", "gpu=2", "gpu=uuid1", "/dev/a:/dev/b:rw", "/dev/a", "db:10.0.0.1", "db:[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := flag.ParseUlimit(s); err == nil {
			again(t, s, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard), u, flag.ParseUlimit, equalProto)
		}
		if g, err := flag.ParseGeneric(s); err == nil {
			printed := g.Kind + "=" + g.Named
			if g.Named == "" {
				printed = fmt.Sprintf("%s=%d", g.Kind, g.Value)
			}
			again(t, s, printed, g, flag.ParseGeneric, equalProto)
		}
		if d, err := flag.ParseDevice(s); err == nil {
			again(t, s, d.PathOnHost+":"+d.PathInContainer+":"+d.CgroupPermissions, d, flag.ParseDevice, equalProto)
		}
		type entry struct{ host, ip string }
		parse := func(s string) (entry, error) {
			host, ip, err := flag.ParseExtraHost(s)
			return entry{host, ip}, err
		}
		if e, err := parse(s); err == nil {
			again(t, s, e.host+":"+e.ip, e, parse, func(a, b entry) bool { return a == b })
		}
	})
}

func FuzzPlacement(f *testing.F) {
	for _, s := range []string{"spread=node.labels.zone", "node.labels.zone==east", "node.role!=manager", "engine.labels.a==b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := flag.ParsePreference(s); err == nil {
			again(t, s, "spread="+p.GetSpread().GetSpreadDescriptor(), p, flag.ParsePreference, equalProto)
		}
		// A constraint goes to managers as it was typed, and is parsed there.
		if c, err := spec.ParseConstraint(s); (err == nil) != (flag.CheckConstraint(s) == nil) {
			t.Errorf("constraint %q: the flag and the manager differ: %v, %v", s, c, err)
		}
	})
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"512m", "2GiB", "1.5g", "-1", "123456789", "0.5", "1e-9", "1/2", "50MB/s", "10m/s", "12345678"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, negative := range []bool{false, true} {
			parse := func(s string) (int64, error) {
				m := flag.Memory{Negative: negative}
				err := m.Set(s)
				return m.Bytes, err
			}
			if n, err := parse(s); err == nil && n != 0 {
				again(t, s, (&flag.Memory{Bytes: n}).String(), n, parse, func(a, b int64) bool { return a == b })
			}
		}
		cpus := func(s string) (int64, error) {
			var c flag.CPUs
			err := c.Set(s)
			return c.Nano, err
		}
		if n, err := cpus(s); err == nil && n != 0 {
			again(t, s, (&flag.CPUs{Nano: n}).String(), n, cpus, func(a, b int64) bool { return a == b })
		}
		rate := func(s string) (int64, error) {
			var r flag.Rate
			err := r.Set(s)
			return r.PerSecond, err
		}
		if n, err := rate(s); err == nil && n != 0 {
			again(t, s, (&flag.Rate{PerSecond: n}).String(), n, rate, func(a, b int64) bool { return a == b })
		}
	})
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{`sh -c 'a b'`, `"a\"b" c\ d ''`, "a\nb\tc", `\`, `'`, `"a\b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parse := func(s string) ([]string, error) {
			var w flag.Words
			err := w.Set(s)
			return w.Values, err
		}
		if words, err := parse(s); err == nil {
			again(t, s, (&flag.Words{Values: words}).String(), words, parse, slices.Equal)
		}
	})
}

func FuzzEnvironment(f *testing.F) {
	f.Add("A=1\n# comment\n\n B=2\r\nHOME\nA=3", "C=\x00")
	f.Add("\ufeffA=1", "HOME")
	f.Fuzz(func(t *testing.T, file, env string) {
		path := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		getenv := func(name string) string { return map[string]string{"HOME": "/root"}[name] }
		if flag.CheckEnv(env) != nil {
			return
		}
		out, err := flag.Environment([]string{env}, []string{path}, getenv)
		if err != nil {
			return
		}
		again, err := flag.Environment(out, nil, getenv)
		if err != nil || !slices.Equal(again, out) {
			t.Errorf("file %q and %q: got %q, then %q, %v", file, env, out, again, err)
		}
		names := map[string]bool{}
		for _, e := range out {
			name, _ := flag.KeyValue(e)
			if names[name] || !strings.Contains(e, "=") {
				t.Errorf("file %q and %q: %q is named twice, or has no value", file, env, e)
			}
			names[name] = true
		}
	})
}

func FuzzFilter(f *testing.F) {
	keys := []string{"id", "name", "label", "mode", "role", "desired-state", "type"}
	for _, s := range []string{"id=a", "label=a=b", "mode=global", "role=Manager", "desired-state=shutdown", "type=x", "nope=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var given []string
		if (&flag.Filter{Values: &given, Keys: keys}).Set(s) != nil {
			return
		}
		filter, rest, err := flag.ParseFilters(given, keys...)
		if err != nil {
			return
		}
		var printed []string
		for key, values := range map[string][]string{
			"id": filter.IdPrefixes, "name": filter.NamePrefixes, "label": filter.Labels, "mode": filter.Modes, "type": rest["type"],
		} {
			for _, v := range values {
				printed = append(printed, key+"="+v)
			}
		}
		for _, role := range filter.Roles {
			printed = append(printed, "role="+strings.ToLower(role.String()))
		}
		if len(filter.DesiredStates) > 0 {
			printed = append(printed, "desired-state="+strings.ToLower(filter.DesiredStates[0].String()))
		}
		got, gotRest, err := flag.ParseFilters(printed, keys...)
		if err != nil || !proto.Equal(got, filter) || !maps.EqualFunc(gotRest, rest, slices.Equal) {
			t.Errorf("%q prints as %q: got %v and %v, want %v and %v, %v", s, printed, got, gotRest, filter, rest, err)
		}
	})
}

func FuzzTime(f *testing.F) {
	for _, s := range []string{"42m", "-1h", "2013-01-02T13:23:37.5Z", "2013-01-02", "2013-01-02T13:23", "1357133017.25", "1e300", "nan"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		type moment = string
		parse := func(s string) (moment, error) {
			at, err := flag.ParseTime("since", s, now)
			if err != nil || at == nil {
				return "", err
			}
			if err := at.CheckValid(); err != nil {
				return "", fmt.Errorf("%q is accepted: %w", s, err)
			}
			return at.AsTime().Format(time.RFC3339Nano), nil
		}
		if at, err := parse(s); err == nil && at != "" {
			again(t, s, at, at, parse, func(a, b moment) bool { return a == b })
		}
	})
}
