package clitest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/internal/keychain"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

func (c caServer) CreateCredential(_ context.Context, r *swarmv1.CreateCredentialRequest) (*swarmv1.CreateCredentialResponse, error) {
	cert, err := c.fake.Root.SignUser(r.Csr, r.Name, time.Hour, time.Now())
	if err != nil {
		return nil, err
	}
	return &swarmv1.CreateCredentialResponse{
		Certificate: pki.EncodeCert(cert), Bundle: c.fake.Root.CertPEM(),
		Managers: []*swarmv1.Peer{{NodeId: "node1", Addr: "10.0.0.1", Port: 2377}},
	}, nil
}

func (s *Server) ListCredentials(_ context.Context, r *swarmv1.ListRequest) (*swarmv1.ListCredentialsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.ListCredentialsResponse{}
	for _, c := range s.Credentials {
		begins := func(text string, prefixes []string) bool {
			return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(text, p) })
		}
		if f := r.GetFilter(); begins(c.GetId(), f.GetIdPrefixes()) && begins(c.GetName(), f.GetNamePrefixes()) {
			out.Credentials = append(out.Credentials, c)
		}
	}
	return out, nil
}

func (s *Server) RemoveCredential(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveCredentialResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &swarmv1.RemoveCredentialResponse{}
	for _, c := range s.Credentials {
		if c.GetName() == r.GetId() {
			out.Removed = append(out.Removed, c)
		}
	}
	if len(out.Removed) == 0 {
		return nil, status.Error(codes.NotFound, "credential "+r.GetId()+" not found")
	}
	for _, c := range s.Credentials {
		if c.GetIssuerId() == out.Removed[0].GetId() {
			out.Issued = append(out.Issued, c)
		}
	}
	return out, nil
}

func (s *Server) Login(_ context.Context, r *swarmv1.LoginRequest) (*swarmv1.LoginResponse, error) {
	data, err := base64.URLEncoding.DecodeString(r.RegistryAuth)
	var c keychain.Credentials
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if password, ok := s.Logins[c.Username]; !ok || password != c.Password || strings.Contains(r.Server, "/") {
		return nil, status.Errorf(codes.Unauthenticated, "registry %s does not take this user name and password", r.Server)
	}
	return &swarmv1.LoginResponse{}, nil
}
