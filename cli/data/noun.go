package data

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// call is a method of the API's client.
type call[In, Out any] = func(ctx context.Context, in In, opts ...grpc.CallOption) (Out, error)

// methods are the methods of the API that serve the objects of one kind.
type methods struct {
	create   call[*swarmv1.CreateDataRequest, *swarmv1.DataInfo]
	get      call[*swarmv1.GetRequest, *swarmv1.DataInfo]
	list     call[*swarmv1.ListRequest, *swarmv1.ListDataResponse]
	update   call[*swarmv1.UpdateDataRequest, *swarmv1.DataInfo]
	remove   call[*swarmv1.GetRequest, *swarmv1.RemoveResponse]
	versions call[*swarmv1.GetRequest, *swarmv1.ListDataVersionsResponse]
}

// noun is `secret` or `config`.
type noun struct {
	spec.DataKind
	deps *command.Deps
	of   func(command.Client) methods
	// arg is what help texts call one object.
	arg string
}

func secrets(deps *command.Deps) noun {
	return noun{spec.SecretKind(), deps, func(c command.Client) methods {
		return methods{c.CreateSecret, c.GetSecret, c.ListSecrets, c.UpdateSecret, c.RemoveSecret, c.ListSecretVersions}
	}, "SECRET"}
}

func configs(deps *command.Deps) noun {
	return noun{spec.ConfigKind(), deps, func(c command.Client) methods {
		return methods{c.CreateConfig, c.GetConfig, c.ListConfigs, c.UpdateConfig, c.RemoveConfig, c.ListConfigVersions}
	}, "CONFIG"}
}

// NewSecret returns the group of commands `swarm secret`.
func NewSecret(deps *command.Deps) *cobra.Command { return secrets(deps).group() }

// NewConfig returns the group of commands `swarm config`.
func NewConfig(deps *command.Deps) *cobra.Command { return configs(deps).group() }

func (n noun) group() *cobra.Command {
	return command.Group(&cobra.Command{Use: n.Word, Short: "Manage " + n.Word + "s"},
		n.newCreate(), n.newHistory(), n.newInspect(), n.newLs(), n.newRm(), n.newRollback(), n.newUpdate())
}

// connect calls fn with the methods of the noun.
func (n noun) connect(ctx context.Context, fn func(methods) error) error {
	return n.deps.Connect(ctx, func(c command.Client) error { return fn(n.of(c)) })
}

// names completes the names of the objects.
func (n noun) names(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return complete.Names(n.deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
		r, err := n.of(c).list(ctx, &swarmv1.ListRequest{})
		var out []string
		for _, o := range r.GetObjects() {
			out = append(out, o.GetSpec().GetName())
		}
		return out, err
	})
}

// read returns the data of a file, or of the standard input for "-".
func (n noun) read(file string) ([]byte, error) {
	in := n.deps.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage.Invalidf("%s data cannot be read: %v", n.Word, err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, int64(n.MaxData)+1))
	if err != nil {
		return nil, fmt.Errorf("read the data of the %s: %w", n.Word, err)
	}
	return data, nil
}
