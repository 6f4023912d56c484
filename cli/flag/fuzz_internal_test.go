package flag

import (
	"strings"
	"testing"

	"swarm/cli/term"
)

// FuzzFlags checks that every parser of a flag accepts or refuses a text at once, and that the
// error of a text that it refuses is one line.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"8080:80/tcp", "127.0.0.1:8000-8010:80-90", "published=1,target=2,mode=host", "type=bind,source=/a,target=/b,readonly",
		"type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777", "name=net,alias=a,driver-opt=k=v", "source=s,target=t,mode=0400", "spread=node.labels.a",
		"nofile=1:2", "gpu=2", "/dev/a:/dev/b:rwm", "A=1", "host:1.2.3.4", "1.5", "10g", `"a b" c\ d`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, parse := range map[string]func(string) error{
			"ports":      func(s string) error { _, err := ParsePorts(s); return err },
			"mount":      func(s string) error { _, err := ParseMount(s); return err },
			"network":    func(s string) error { _, err := ParseNetwork(s); return err },
			"secret":     func(s string) error { _, err := ParseSecret(s); return err },
			"config":     func(s string) error { _, err := ParseConfig(s); return err },
			"preference": func(s string) error { _, err := ParsePreference(s); return err },
			"ulimit":     func(s string) error { _, err := ParseUlimit(s); return err },
			"generic":    func(s string) error { _, err := ParseGeneric(s); return err },
			"device":     func(s string) error { _, err := ParseDevice(s); return err },
			"host":       CheckExtraHost, "label": CheckLabel, "env": CheckEnv, "security": CheckSecurityOpt, "constraint": CheckConstraint,
			"memory": func(s string) error { return new(Memory).Set(s) }, "cpus": func(s string) error { return new(CPUs).Set(s) },
			"words": func(s string) error { return new(Words).Set(s) }, "rate": func(s string) error { return new(Rate).Set(s) },
		} {
			if err := parse(s); err != nil && strings.ContainsAny(term.ErrorLine(err), "\n\r") {
				t.Errorf("%s %q: an error of several lines: %q", name, s, err)
			}
		}
	})
}
