package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	renewCallTimeout = 10 * time.Second
	renewBackoffMin  = time.Second
	renewBackoffMax  = time.Minute
)

// renew replaces the certificate after about half of its lifetime. If the certificate expired while
// the host was off, renew replaces it immediately.
func (m *member) renew(ctx context.Context) error {
	backoff := renewBackoffMin
	due := pki.RenewAt(m.base.Identity.Credential().Cert, 2*rand.Float64()-1)
	for {
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := m.renewOnce(ctx); err != nil {
			m.base.Log.Warn("cannot renew this node's certificate: trying again", "err", err, "again_in", backoff)
			due = time.Now().Add(backoff/2 + rand.N(backoff))
			backoff = min(2*backoff, renewBackoffMax)
			continue
		}
		backoff = renewBackoffMin
		due = pki.RenewAt(m.base.Identity.Credential().Cert, 2*rand.Float64()-1)
		// If this host's clock is ahead of the manager's, the new certificate may be due for
		// renewal at once.
		if soonest := time.Now().Add(renewBackoffMin); due.Before(soonest) {
			due = soonest
		}
	}
}

// renewOnce asks the managers, in random order, until one issues a certificate.
func (m *member) renewOnce(ctx context.Context) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		return err
	}
	request := &swarmv1.RenewRequest{Csr: csr, MachineId: m.node.cfg.MachineID}
	lastErr := fmt.Errorf("this node knows no manager")
	managers := slices.Clone(m.managers())
	rand.Shuffle(len(managers), func(i, j int) { managers[i], managers[j] = managers[j], managers[i] })
	for _, peer := range managers {
		conn, err := m.base.Dialer.DialGRPC(peer.NodeID)
		if err != nil {
			return err
		}
		callCtx, cancel := context.WithTimeout(ctx, renewCallTimeout)
		answer, err := swarmv1.NewCAClient(conn).Renew(callCtx, request)
		cancel()
		if err != nil {
			lastErr = fmt.Errorf("manager %s: %w", peer.NodeID, err)
			continue
		}
		return m.installCertificate(answer.Certificate, answer.Bundle, key)
	}
	return lastErr
}
