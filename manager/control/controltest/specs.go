package controltest

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Digest is the digest of every image of a Registry that names no other.
const Digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// Registry is a registry which has every image under Digest, but for the references in it: those
// fail with the error.
type Registry map[string]error

// Resolve returns the digest of a reference.
func (r Registry) Resolve(_ context.Context, ref, _ string) (string, error) {
	if err, ok := r[ref]; ok && err != nil {
		return "", err
	}
	return Digest, nil
}

// Digests is a registry that has only the images in it, by reference.
type Digests map[string]string

// Resolve returns the digest of a reference.
func (d Digests) Resolve(_ context.Context, ref, _ string) (string, error) {
	digest, ok := d[ref]
	if !ok {
		return "", errdefs.ErrNotFound
	}
	return digest, nil
}

// Refused checks that an error is of a class, and has a text in one line that contains says.
func Refused(t *testing.T, what string, err error, class func(error) bool, says string) {
	t.Helper()
	err = transport.FromStatus(err)
	if err == nil || !class(err) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: got %v, want one line that says %q", what, err, says)
	}
}

// ServiceSpec returns the spec of a replicated service of image demo:1.
func ServiceSpec(name string, replicas uint64) *swarmv1.ServiceSpec {
	return &swarmv1.ServiceSpec{
		Name:         name,
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "demo:1"}},
		Mode:         &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: replicas}}},
	}
}

// Attached attaches the tasks of a service to networks, and to no others.
func Attached(s *swarmv1.ServiceSpec, networks ...string) *swarmv1.ServiceSpec {
	s.TaskTemplate.Networks = nil
	for _, n := range networks {
		s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, &swarmv1.NetworkAttachmentConfig{Target: n})
	}
	return s
}

// Subnet gives a network a subnet.
func Subnet(prefix string) func(*swarmv1.NetworkSpec) {
	return func(s *swarmv1.NetworkSpec) {
		s.Ipam = &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: prefix}}}
	}
}
