package volume_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestVolumeCreate(t *testing.T) {
	s := clitest.VolumeServer()
	got := clitest.Run{Server: s}.Run(t, "volume", "create", "--label", "a=b", "-o", "type=nfs", "--opt", "device=:/x", "--opt", "o=addr=10.0.0.1,rw", "--node", "host1", "v")
	if got.Code != 0 || got.Out != "v\n" {
		t.Fatalf("got %+v", got)
	}
	want := &swarmv1.CreateVolumeRequest{Node: "host1", Volume: &swarmv1.Volume{
		Name: "v", Labels: map[string]string{"a": "b"},
		Driver: &swarmv1.Driver{Name: "local", Options: map[string]string{"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1,rw"}},
	}}
	if !s.VolumeReqs[0].EqualVT(want) {
		t.Errorf("got %v, want %v", s.VolumeReqs[0], want)
	}
	for _, test := range []struct{ args, says string }{
		{"a/b", "is not valid"},
		{"-d rexray v", "nodes have only the driver local"},
		{"-o size=1 v", `driver option "size"`},
		{"-o device=/x v", "without type"},
		{"-o type=zfs v", "use nfs, nfs4, cifs, none, tmpfs"},
		{"-o type=nfs v", "without device"},
		{"-o type=none -o device=/x v", "add o=bind"},
		{"-o type=none -o device=x -o o=bind v", "begin it with /"},
	} {
		clitest.Refused(t, test.args, clitest.Run{Server: clitest.VolumeServer()}.Run(t, append([]string{"volume", "create"}, strings.Fields(test.args)...)...), test.says)
	}
}

func TestVolumeLsAndInspect(t *testing.T) {
	run := func(args ...string) clitest.Result {
		return clitest.Run{Server: clitest.VolumeServer()}.Run(t, args...)
	}
	clitest.Golden(t, "volume-ls.golden", run("volume", "ls").Out)
	clitest.Golden(t, "volume-ls-json.golden", run("volume", "ls", "--format", "json").Out)
	for filter, want := range map[string]string{
		"dangling=true": "old\nshare\n", "dangling=0": "data\ndata\n", "driver=local": "data\ndata\nold\nshare\n", "driver=x": "", "node=host2": "data\n",
	} {
		if got := run("volume", "ls", "-q", "--filter", filter); got.Out != want || got.Code != 0 {
			t.Errorf("%s: got %+v, want %q", filter, got, want)
		}
	}
	clitest.Refused(t, "dangling", run("volume", "ls", "--filter", "dangling=x"), "use true or false")
	clitest.Golden(t, "volume-inspect.golden", run("volume", "inspect", "data", "share").Out)
	if got := run("volume", "inspect", "-f", "{{.Node.Hostname}}", "--node", "host2", "data"); got.Out != "host2\n" {
		t.Errorf("on one node: got %+v", got)
	}
	clitest.Refused(t, "absent", run("volume", "inspect", "absent"), "no volume absent")
}

func TestVolumeRmAndPrune(t *testing.T) {
	s := clitest.VolumeServer()
	got := clitest.Run{Server: s}.Run(t, "volume", "rm", "data", "old")
	if got.Code != 1 || got.Out != "old\n" || !strings.Contains(got.ErrOut, "in use") {
		t.Errorf("got %+v", got)
	}
	if got := (clitest.Run{Server: s}).Run(t, "volume", "rm", "-f", "absent"); got.Code != 0 {
		t.Errorf("with force: got %+v", got)
	}
	got = clitest.Run{Server: s}.Run(t, "volume", "prune", "-f")
	if got.Code != 0 || got.Out != "Total reclaimed space: 0B\n" || !strings.Contains(got.ErrOut, "--all") {
		t.Errorf("without --all: got %+v", got)
	}
	got = clitest.Run{Server: s}.Run(t, "volume", "prune", "-a", "-f")
	if got.Code != 1 || got.Out != "Deleted Volumes:\nold on host1\n\nTotal reclaimed space: 2MB\n" || !strings.Contains(got.ErrOut, "it is down") {
		t.Errorf("got %+v", got)
	}
	if got := (clitest.Run{Server: s}).Run(t, "volume", "prune", "-a"); got.Out != "" || !strings.Contains(got.ErrOut, "WARNING") {
		t.Errorf("unconfirmed: got %+v", got)
	}
}

func TestVolumeArchives(t *testing.T) {
	s := clitest.VolumeServer()
	file := filepath.Join(t.TempDir(), "data.tar.zst")
	got := clitest.Run{Server: s}.Run(t, "volume", "backup", "data", file)
	if text, err := os.ReadFile(file); err != nil || string(text) != clitest.Archive || got.Code != 0 || got.ErrOut != "Archive: 9B written\n" {
		t.Fatalf("got %+v, %q, %v", got, text, err)
	}
	if got := (clitest.Run{Server: s}).Run(t, "volume", "backup", "-q", "data", "-"); got.Out != clitest.Archive || got.ErrOut != "" {
		t.Errorf("to standard output: got %+v", got)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	clitest.Refused(t, "absent", clitest.Run{Server: s}.Run(t, "volume", "backup", "nosuch", absent), "volume nosuch")
	if entries, err := os.ReadDir(filepath.Dir(absent)); len(entries) > 0 || err != nil {
		t.Errorf("a backup that failed leaves %v, %v", entries, err)
	}
	got = clitest.Run{Server: s}.Run(t, "volume", "restore", "--node", "host1", "--label", "a=b", "--force", "copy", file)
	want := &swarmv1.RestoreVolumeStart{Volume: &swarmv1.Volume{Name: "copy", Labels: map[string]string{"a": "b"}}, Node: "host1", Replace: true}
	if got.Code != 0 || got.Out != "copy\n" || !s.Restored[0].EqualVT(want) {
		t.Errorf("got %+v, %v", got, s.Restored)
	}
	if got := (clitest.Run{Server: s, Stdin: strings.NewReader("nonsense")}).Run(t, "volume", "restore", "copy", "-"); got.Code != 1 || !strings.Contains(got.ErrOut, "broken") {
		t.Errorf("a broken archive: got %+v", got)
	}
	got = clitest.Run{Server: s}.Run(t, "volume", "clone", "data", "copy", "--to-node", "host2")
	if got.Code != 0 || got.Out != "copy\n" || got.ErrOut != "Archive: 2kB copied\n" || s.Restored[1].GetNode() != "host2" {
		t.Errorf("got %+v, %v", got, s.Restored)
	}
}
