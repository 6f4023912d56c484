package credential

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/ident"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `credential ls --filter` takes.
var filters = []string{"id", "name"}

// New returns the group of commands `swarm credential`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "credential", Short: "Manage client certificates"},
		newCreate(deps), newLs(deps), newRm(deps))
}

type options struct {
	name, output string
	expiry       time.Duration
}

func newCreate(deps *command.Deps) *cobra.Command {
	var o options
	c := command.Verb(&cobra.Command{
		Use: "create [OPTIONS] NAME", Short: "Create a client certificate, with which a remote machine may use this swarm", Args: usage.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runCreate(c.Context(), deps, o)
		},
	})
	c.Flags().StringVarP(&o.output, "output", "o", "", "File to write, which must not exist (default NAME.pem)")
	c.Flags().DurationVar(&o.expiry, "expiry", 0, "Validity period (ns|us|ms|s|m|h) (default and maximum: that of a node's certificate, and the rest of your own credential's)")
	return c
}

func runCreate(ctx context.Context, deps *command.Deps, o options) error {
	if err := ident.CheckUserName(o.name); err != nil {
		return err
	}
	if o.expiry < 0 {
		return usage.Invalidf("--expiry %s is negative: use a positive duration", o.expiry)
	}
	if o.output == "" {
		o.output = o.name + ".pem"
	}
	if _, err := os.Lstat(o.output); err == nil {
		return usage.Invalidf("%s exists: name another file with -o", o.output)
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := pki.CreateCSR(key)
	if err != nil {
		return err
	}
	req := &swarmv1.CreateCredentialRequest{Name: o.name, Csr: csr}
	if o.expiry > 0 {
		req.Validity = durationpb.New(o.expiry)
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.CA.CreateCredential(ctx, req)
		if err != nil {
			return err
		}
		cert, err := pki.ParseCert(r.Certificate)
		if err != nil {
			return err
		}
		cred, err := pki.NewCredential(cert, key)
		if err != nil {
			return err
		}
		bundle, err := pki.ParseBundle(r.Bundle)
		if err != nil {
			return err
		}
		if err := writeSecretFile(o.output, Encode(cred, bundle)); err != nil {
			return err
		}
		term.Printf(deps.Out, "%s\n", o.output)
		term.Printf(deps.Err, "Credential of %s is valid until %s. To use it on another machine, copy the file there and run:\n\n", o.name, cert.NotAfter.UTC().Format(time.RFC3339))
		for _, m := range r.Managers {
			term.Printf(deps.Err, "    swarm -H tcp://%s --credential %s node ls\n", hostPort(m), filepath.Base(o.output))
		}
		return nil
	})
}

type lsOptions struct {
	command.ListOptions
	noTrunc bool
}

func newLs(deps *command.Deps) *cobra.Command {
	var o lsOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List client certificates", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o.ListOptions, "Only display credential IDs", filters)
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate the output")
	return c
}

var listing = term.Table{
	Columns: []term.Column{{"ID", "CREDENTIAL ID"}, {"Name", "NAME"}, {"Until", "VALID UNTIL"}, {"Issuer", "CREATED BY"}},
	More:    []term.Column{{"IssuerID", "CREATED WITH"}, {"CreatedAt", "CREATED AT"}},
}

func runLs(ctx context.Context, deps *command.Deps, o lsOptions) error {
	filter, _, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListCredentials(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		short := term.ShortID
		if o.noTrunc {
			short = func(id string) string { return id }
		}
		var rows []term.Row
		for _, cred := range r.Credentials {
			rows = append(rows, term.Row{
				"ID": short(cred.GetId()), "Name": cred.GetName(), "Until": cred.GetUntil().AsTime().Format(time.RFC3339),
				"Issuer": cred.GetIssuer(), "IssuerID": short(cred.GetIssuerId()), "CreatedAt": term.Stamp(cred.GetMeta().GetCreatedAt()),
			})
		}
		return deps.PrintTable(listing, o.Format, rows)
	})
}

func newRm(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "rm [OPTIONS] CREDENTIAL [CREDENTIAL...]", Aliases: []string{"remove"}, Short: "Revoke one or more client certificates", Args: usage.MinArgs(1),
		Long: `Revoke client certificates by ID, by the beginning of an ID (4 characters or more), or by name.

A name revokes all certificates of that name. Managers refuse their holders from
then on, and close open connections. Certificates that were created with a
revoked one stay valid. The command lists them, so that you can revoke them too.`,
		ValidArgsFunction: completeRefs(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runRm(c.Context(), deps, force, args) },
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the credential does not exist")
	return c
}

// runRm revokes credentials. With force, a credential that does not exist is no error.
func runRm(ctx context.Context, deps *command.Deps, force bool, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			err := revoke(ctx, deps, c, ref)
			if force && command.IsNotFound(err) {
				return nil
			}
			return err
		})
	})
}

func revoke(ctx context.Context, deps *command.Deps, c command.Client, ref string) error {
	r, err := c.RemoveCredential(ctx, &swarmv1.GetRequest{Id: ref})
	if err != nil {
		return err
	}
	for _, cred := range r.Removed {
		term.Printf(deps.Out, "%s\n", cred.GetId())
	}
	for _, cred := range r.Issued {
		deps.Warn([]string{fmt.Sprintf("credential %s (%s), which %s created with it, is still valid: to revoke it too, run `swarm credential rm %s`",
			term.ShortID(cred.GetId()), cred.GetName(), cred.GetIssuer(), term.ShortID(cred.GetId()))})
	}
	return nil
}

// completeRefs completes ids, with names as descriptions, because several credentials may have the
// same name.
func completeRefs(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete.Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListCredentials(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, cred := range r.Credentials {
				out = append(out, cobra.CompletionWithDesc(term.ShortID(cred.GetId()), cred.GetName()))
			}
			return out, nil
		})
	}
}

func hostPort(p *swarmv1.Peer) string {
	port := p.GetPort()
	if port == 0 {
		port = command.DefaultPort
	}
	addr, err := command.WithPort(fmt.Sprintf("[%s]:%d", p.GetAddr(), port))
	if err != nil {
		return p.GetAddr()
	}
	return addr
}
