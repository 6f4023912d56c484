package service

import (
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// bindNetworks replaces the names of networks by ids. It returns an error if a task cannot be
// attached as the list says.
func bindNetworks(v *table.View, list []*swarmv1.NetworkAttachmentConfig) error {
	seen := make(map[string]string, len(list))
	for _, n := range list {
		asked := n.GetTarget()
		for key := range n.GetDriverOpts() {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("option %q of network %s is not known: there are none, leave driver-opt out", key, asked))
		}
		if spec.IsLocalNetwork(asked) {
			if len(n.GetAddresses()) > 0 || len(n.GetAliases()) > 0 {
				return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s has no names and gives addresses by itself: leave alias and ip out, or use an overlay network", asked))
			}
			continue
		}
		row, ok := v.Networks.Get(asked)
		if !ok {
			row, ok = v.Networks.ByName(asked)
		}
		switch {
		case !ok:
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found: use bridge, host or none, or create it first with `swarm network create %s`", asked, asked))
		case row.GetSpec().GetIngress():
			return errdefs.ErrInvalidArgument.WithMessage("no service can be attached to network ingress: publish a port, and the nodes use it for that")
		case seen[row.GetId()] != "":
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s is named twice, as %s and %s: name each network once", row.GetSpec().GetName(), seen[row.GetId()], asked))
		}
		seen[row.GetId()], n.Target = asked, row.GetId()
		if err := checkAddresses(row, n.GetAddresses()); err != nil {
			return err
		}
	}
	return nil
}

// joinNetworks returns a Touch of each network that is in next, but not in the current revision of
// the service. If a call removes such a network at the same moment, the store rejects either the
// removal or the group with the Touch. Services that join one network at the same moment do not
// disturb each other. joinNetworks returns ErrNotFound if a network of next does not exist any
// more, as may happen in a rollback to an old revision.
func joinNetworks(v *table.View, service string, next *swarmv1.ServiceSpec) (changes []*swarmv1.Change, err error) {
	svc, _ := v.Services.Get(service)
	current, _ := v.Revision(service, svc.GetRevision())
	for _, n := range next.GetTaskTemplate().GetNetworks() {
		if spec.IsLocalNetwork(n.GetTarget()) || object.OnNetwork(current, n.GetTarget()) {
			continue
		}
		row, ok := v.Networks.Get(n.GetTarget())
		if !ok {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s was removed: create it anew, and name it in a service update", n.GetTarget()))
		}
		changes = append(changes, table.Touch(row.CloneVT()))
	}
	return changes, nil
}

// checkAddresses returns an error if a task cannot have one of the addresses on a network.
func checkAddresses(n *swarmv1.Network, addresses []string) error {
	plan, err := ipam.ParseSubnets(n.GetIpam())
	if err != nil {
		return fmt.Errorf("network %s: %w: %w", n.GetSpec().GetName(), err, errdefs.ErrInternal)
	}
	families := make(map[string]string, len(plan))
	for _, text := range addresses {
		a, err := ipam.ParseAddr(text)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("address %s is not an IP address: write it like 10.0.1.5", text))
		}
		sub, ok := plan.Containing(a)
		switch {
		case !ok:
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("address %s is not in a subnet of network %s: choose one of %s", a, n.GetSpec().GetName(), plan))
		case !sub.Assignable(a):
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("address %s is reserved in subnet %s: choose another", a, sub.Prefix()))
		case families[sub.Family()] != "":
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("addresses %s and %s are of one family: a task has one of each on a network", families[sub.Family()], a))
		}
		families[sub.Family()] = text
	}
	return nil
}
