package service

import (
	"fmt"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// bind replaces the names in a spec by the ids of the objects. It returns ErrNotFound if one does
// not exist.
func bind(v *table.View, s *swarmv1.ServiceSpec) error {
	if err := bindNetworks(v, s.GetTaskTemplate().GetNetworks()); err != nil {
		return err
	}
	for _, ref := range s.GetTaskTemplate().GetContainerSpec().GetSecrets() {
		row, ok := v.Secrets.Get(ref.GetSecretId())
		if !ok {
			row, ok = v.Secrets.ByName(ref.GetSecretName())
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
			row, ok = v.Configs.ByName(ref.GetConfigName())
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
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found: secrets and configs cannot be created yet", kind, name))
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
