package control

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Ports that are chosen come from here, as in Docker.
const (
	firstChosenPort = 30000
	lastChosenPort  = 32767
)

// bind turns names that the spec uses into ids of rows that exist.
func bind(v *raftstore.View, s *swarmv1.ServiceSpec) error {
	if err := bindNetworks(v, s.GetTaskTemplate().GetNetworks()); err != nil {
		return err
	}
	for _, ref := range s.GetTaskTemplate().GetContainerSpec().GetSecrets() {
		row, ok := v.Secrets.Get(ref.GetSecretId())
		if !ok {
			row, ok = v.SecretByName(ref.GetSecretName())
		}
		if !ok {
			return missing("secret", ref.GetSecretName(), ref.GetSecretId())
		}
		ref.SecretId, ref.SecretName = row.GetId(), row.GetSpec().GetName()
		if err := bindVersion("secret", ref.SecretName, &ref.Number, row.GetVersions()); err != nil {
			return err
		}
	}
	for _, ref := range s.GetTaskTemplate().GetContainerSpec().GetConfigs() {
		row, ok := v.Configs.Get(ref.GetConfigId())
		if !ok {
			row, ok = v.ConfigByName(ref.GetConfigName())
		}
		if !ok {
			return missing("config", ref.GetConfigName(), ref.GetConfigId())
		}
		ref.ConfigId, ref.ConfigName = row.GetId(), row.GetSpec().GetName()
		if err := bindVersion("config", ref.ConfigName, &ref.Number, row.GetVersions()); err != nil {
			return err
		}
	}
	return nil
}

func missing(kind, name, id string) error {
	if name == "" {
		name = id
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found: create it first", kind, name))
}

func bindVersion(kind, name string, number *uint64, versions []*swarmv1.DataVersion) error {
	if *number == 0 && len(versions) > 0 {
		*number = versions[len(versions)-1].GetNumber()
	}
	for _, v := range versions {
		if v.GetNumber() == *number {
			return nil
		}
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s has no version %d", kind, name, *number))
}

// claimPorts chooses the ports that the mesh is to publish and left open, and makes the claims that keep each of them
// exclusive; claims of ports that the service no longer publishes are given back. Ports of mode=host are claimed by the
// planner, for the node that it chooses.
func claimPorts(v *raftstore.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	mine := make(map[string]bool)
	for _, p := range old {
		if p.GetPublishMode() != swarmv1.PortConfig_HOST {
			mine[portKey(p.GetProtocol(), p.GetPublishedPort())] = true
		}
	}
	var ports []*swarmv1.PortConfig
	var changes []*swarmv1.Change
	keep := make(map[string]bool)
	for _, p := range want {
		p = p.CloneVT()
		ports = append(ports, p)
		if p.GetPublishMode() == swarmv1.PortConfig_HOST {
			continue
		}
		if p.PublishedPort == 0 {
			p.PublishedPort = choosePort(v, p, old, want, keep)
		}
		key := portKey(p.GetProtocol(), p.GetPublishedPort())
		if p.PublishedPort == 0 {
			return nil, nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", firstChosenPort, lastChosenPort, p.GetTargetPort()))
		}
		if c, taken := v.Claims.Get(key); taken && c.GetOwner() != service {
			return nil, nil, portTaken(v, p, c.GetOwner())
		} else if !taken && !keep[key] {
			changes = append(changes, raftstore.Create(&swarmv1.Claim{Key: key, Owner: service}))
		}
		keep[key] = true
	}
	for key := range mine {
		if c, ok := v.Claims.Get(key); ok && !keep[key] && c.GetOwner() == service {
			changes = append(changes, raftstore.Delete(c))
		}
	}
	return ports, changes, nil
}

func portTaken(v *raftstore.View, p *swarmv1.PortConfig, owner string) error {
	port := fmt.Sprintf("port %d/%s", p.GetPublishedPort(), strings.ToLower(p.GetProtocol().String()))
	if svc, _ := v.Services.Get(owner); svc.GetPendingDelete() {
		return leaving{fmt.Sprintf("%s is published by service %s, which is still being removed: try again when its tasks have stopped", port, svc.GetName()), []string{owner}}
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("%s is already published by service %s: publish another port", port, serviceName(v, owner)))
}

// choosePort keeps the port that was chosen before for the same target, and else takes the first that is free.
func choosePort(v *raftstore.View, p *swarmv1.PortConfig, old, want []*swarmv1.PortConfig, keep map[string]bool) uint32 {
	asked := make(map[string]bool)
	for _, w := range want {
		asked[portKey(w.GetProtocol(), w.GetPublishedPort())] = true
	}
	for _, o := range old {
		key := portKey(o.GetProtocol(), o.GetPublishedPort())
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && o.GetPublishMode() != swarmv1.PortConfig_HOST && !keep[key] && !asked[key] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(firstChosenPort); port <= lastChosenPort; port++ {
		key := portKey(p.GetProtocol(), port)
		if _, taken := v.Claims.Get(key); !taken && !keep[key] && !asked[key] {
			return port
		}
	}
	return 0
}

func portKey(proto swarmv1.PortConfig_Protocol, port uint32) string {
	return fmt.Sprintf("port/ingress/%s/%d", strings.ToLower(proto.String()), port)
}

func serviceName(v *raftstore.View, id string) string {
	if svc, ok := v.Services.Get(id); ok {
		return svc.GetName()
	}
	return id
}
