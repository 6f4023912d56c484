package node

import (
	"os"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestDescribe(t *testing.T) {
	d := Describe(&swarmv1.VersionInfo{Version: "v1.2.3", Containerd: "v2"}, map[string]string{"disk": "ssd"})
	if e := d.GetEngine(); e.GetEngineVersion() != "v1.2.3" || e.GetRuntimeVersion() != "containerd v2" || e.GetLabels()["disk"] != "ssd" {
		t.Errorf("engine: got %v", e)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.GetEngine().GetKernelVersion(), strings.TrimSpace(string(release)); got != want {
		t.Errorf("kernel version: got %q, want %q", got, want)
	}
	if r := d.GetResources(); r.GetNanoCpus() < 1e9 || r.GetMemoryBytes() < 1<<20 || d.GetPlatform().GetOs() != "linux" {
		t.Errorf("got %v", d)
	}
	for goarch, want := range map[string]string{"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64"} {
		if got := architecture(goarch); got != want {
			t.Errorf("%s: got %q, want %q", goarch, got, want)
		}
	}
}
