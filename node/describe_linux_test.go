package node

import (
	"os"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	d := Describe()
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
