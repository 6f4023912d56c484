package ca_test

import (
	"crypto/x509"
	"testing"

	"swarm/internal/pki"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// The holder of an old certificate of a node does not use up the rate limit of the node.
func TestRateKey(t *testing.T) {
	view := table.ViewOf(&swarmv1.Node{Id: "n1", PublicKey: []byte("new"), PreviousKey: []byte("previous")})
	of := func(id, key string) string {
		return ca.RateKey(view, pki.Peer{ID: id, Cert: &x509.Certificate{RawSubjectPublicKeyInfo: []byte(key)}})
	}
	if of("n1", "new") != "n1" || of("n1", "previous") != "n1" {
		t.Error("a key that the node may use has a budget of its own")
	}
	if of("n1", "old") == "n1" || of("n1", "old") == of("n1", "older") || of("n2", "new") == "n1" {
		t.Error("a key that the node may not use takes from the budget of the node, or of another key")
	}
}
