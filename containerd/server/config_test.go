//go:build linux

package server

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestConfig_ArgsAndParseArgsAreInverse(t *testing.T) {
	want := Config{Root: "/d/c", State: "/r/c", Address: "/r/c.sock", BinDir: "/d/bin/b", LogLevel: "debug"}
	got, err := ParseArgs(want.Args())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestParseArgs_RefusesInOneLine(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"surplus"}, {"--help"}, {"--root"}} {
		if _, err := ParseArgs(args); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want one line of invalid argument", args, err)
		}
	}
}

func TestRun_RefusesConfigurationsBeforeItWrites(t *testing.T) {
	good := Config{Root: "/d/c", State: "/r/c", Address: "/r/c.sock", BinDir: "/d/bin/b"}
	for name, spoil := range map[string]func(*Config){
		"no root":        func(c *Config) { c.Root = "" },
		"relative state": func(c *Config) { c.State = "c" },
		"no address":     func(c *Config) { c.Address = "" },
		"no programs":    func(c *Config) { c.BinDir = "" },
		"root is state":  func(c *Config) { c.State = "/d/./c" },
		"long state":     func(c *Config) { c.State = "/" + strings.Repeat("x", 41) },
		"no such level":  func(c *Config) { c.LogLevel = "loud" },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if err := Run(t.Context(), c); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want invalid argument", err)
			}
		})
	}
}

func TestWithFirst(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"/usr/bin:/bin", "/d:/usr/bin:/bin"},
		{"/d:/usr/bin", "/d:/usr/bin"},
		{"/d", "/d"},
		{"/data:/bin", "/d:/data:/bin"},
		{"", "/d:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	} {
		if got := withFirst("/d", c.path); got != c.want {
			t.Errorf("withFirst(/d, %q): got %q, want %q", c.path, got, c.want)
		}
	}
}
