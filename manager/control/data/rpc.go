package data

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// CreateSecret writes a secret with its first version.
func (s *Server) CreateSecret(ctx context.Context, req *swarmv1.CreateDataRequest) (*swarmv1.DataInfo, error) {
	return s.secrets.create(ctx, req)
}

// GetSecret returns a secret without its data.
func (s *Server) GetSecret(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.DataInfo, error) {
	return s.secrets.get(req.GetId())
}

// ListSecrets returns the secrets that the filter matches, without their data, ordered by name.
func (s *Server) ListSecrets(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListDataResponse, error) {
	return s.secrets.list(req.GetFilter())
}

// UpdateSecret changes the labels of a secret, adds a version, or makes an older one current again.
// The services that follow the secret then get the version, one after another.
func (s *Server) UpdateSecret(ctx context.Context, req *swarmv1.UpdateDataRequest) (*swarmv1.DataInfo, error) {
	return s.secrets.update(ctx, req)
}

// RemoveSecret removes a secret. It returns ErrFailedPrecondition if a service uses it.
func (s *Server) RemoveSecret(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	return s.secrets.remove(ctx, req.GetId())
}

// ListSecretVersions lists the versions of a secret without their data, oldest first.
func (s *Server) ListSecretVersions(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ListDataVersionsResponse, error) {
	return s.secrets.versions(req.GetId())
}

// CreateConfig writes a config with its first version.
func (s *Server) CreateConfig(ctx context.Context, req *swarmv1.CreateDataRequest) (*swarmv1.DataInfo, error) {
	return s.configs.create(ctx, req)
}

// GetConfig returns a config with the data of its current version.
func (s *Server) GetConfig(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.DataInfo, error) {
	info, err := s.configs.get(req.GetId())
	if err != nil {
		return nil, err
	}
	version, _ := s.configs.store.View().DataVersions.Get(table.DataVersionKey(info.GetId(), info.GetStatus().GetNumber()))
	info.Data = version.GetData()
	return info, nil
}

// ListConfigs returns the configs that the filter matches, without their data, ordered by name.
func (s *Server) ListConfigs(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListDataResponse, error) {
	return s.configs.list(req.GetFilter())
}

// UpdateConfig changes a config as UpdateSecret changes a secret.
func (s *Server) UpdateConfig(ctx context.Context, req *swarmv1.UpdateDataRequest) (*swarmv1.DataInfo, error) {
	return s.configs.update(ctx, req)
}

// RemoveConfig removes a config. It returns ErrFailedPrecondition if a service uses it.
func (s *Server) RemoveConfig(ctx context.Context, req *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	return s.configs.remove(ctx, req.GetId())
}

// ListConfigVersions lists the versions of a config without their data, oldest first.
func (s *Server) ListConfigVersions(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ListDataVersionsResponse, error) {
	return s.configs.versions(req.GetId())
}
