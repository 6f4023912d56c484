package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"swarm/dev"
)

// bareOverlay is an overlay network that is made by hand. Each of two hosts has one namespace with
// a bridge and a VXLAN device, and another one with the other end of a veth pair, like a container.
type bareOverlay struct {
	names   []string // of the namespaces, in /run/netns
	ends    []string // paths of the two that stand for containers
	address netip.Addr
}

func newBareOverlay(ctx context.Context, hosts []dev.Host) (*bareOverlay, error) {
	b := &bareOverlay{address: netip.MustParseAddr("10.254.254.2")}
	for i := range 2 {
		bridge, end := fmt.Sprintf("bench-%d-bridge%d", os.Getpid(), i), fmt.Sprintf("bench-%d-end%d", os.Getpid(), i)
		device := fmt.Sprintf("bvx%d", os.Getpid()%1000000)
		b.names, b.ends = append(b.names, bridge, end), append(b.ends, "/run/netns/"+end)
		script := strings.NewReplacer("BRIDGE", bridge, "END", end, "DEVICE", device, "HOST", hosts[i].Namespace,
			"LOCAL", hosts[i].Address.String(), "REMOTE", hosts[1-i].Address.String(), "ADDR", fmt.Sprintf("10.254.254.%d/24", i+1)).Replace(`set -e
ip netns add BRIDGE
ip netns add END
nsenter --net=HOST ip link add DEVICE type vxlan id 4242 local LOCAL remote REMOTE dstport 4790 nolearning
nsenter --net=HOST ip link set DEVICE netns /run/netns/BRIDGE
nsenter --net=/run/netns/BRIDGE sh -c 'for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 0 >$f; done'
ip -n BRIDGE link add br0 type bridge
ip -n BRIDGE link set DEVICE mtu 1450 master br0 up
ip -n BRIDGE link set br0 mtu 1450 up
ip -n BRIDGE link add v0 mtu 1450 type veth peer name eth0 mtu 1450 netns END
ip -n BRIDGE link set v0 master br0 up
ip -n END addr add ADDR dev eth0
ip -n END link set eth0 up
ip -n END link set lo up
`)
		if out, err := exec.CommandContext(ctx, "sh", "-c", script).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("make a VXLAN by hand: %w: %s", err, out), b.close())
		}
	}
	return b, nil
}

func (b *bareOverlay) close() error {
	var errs []error
	for _, name := range b.names {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("remove namespace %s: %w: %s", name, err, out))
		}
	}
	return errors.Join(errs...)
}
