package main

import (
	"context"
	"time"

	"swarm/cli/command"
	"swarm/cli/credential"
	"swarm/internal/transport"
)

// dial connects the command line to a daemon over its local socket, or as a user with a credential.
func dial(_ context.Context, target command.Target) (command.Conn, error) {
	if target.Network == "unix" {
		return transport.DialUnix(target.Address)
	}
	credential, roots, err := credential.Read(target.Credential)
	if err != nil {
		return nil, err
	}
	identity, err := transport.NewIdentity(credential, roots, time.Now)
	if err != nil {
		return nil, err
	}
	return transport.NewDialer(identity, nil).DialAddr(target.Address), nil
}
