//go:build linux

package survey

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

func TestKernel_LeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	features, err := Kernel()
	if err != nil || len(features) != 4 {
		t.Fatalf("got %v, %v", features, err)
	}
	for _, f := range features {
		if f.Err != nil {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
}

func TestReadFirewall(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var got Firewall
	if err := netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
		for name, hook := range map[string]*nftables.ChainHook{
			"FORWARD": nftables.ChainHookForward, "INPUT": nftables.ChainHookInput, "OUTPUT": nftables.ChainHookOutput,
		} {
			drop := nftables.ChainPolicyDrop
			c.AddChain(&nftables.Chain{
				Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
				Priority: nftables.ChainPriorityFilter, Policy: &drop,
			})
		}
		c.AddChain(&nftables.Chain{Name: "harmless", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		if err := c.Flush(); err != nil {
			return err
		}
		got, err = ReadFirewall()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := Firewall{ForwardDrop: []string{"ip filter FORWARD"}, InputDrop: []string{"ip filter INPUT"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
