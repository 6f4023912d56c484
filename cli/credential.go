package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
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

// credentialFilters are the keys that `credential ls --filter` takes.
var credentialFilters = []string{"id", "name"}

func newCredential(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "credential", Short: "Manage client certificates"},
		newCredentialCreate(deps), newCredentialLs(deps), newCredentialRm(deps))
}

type credentialOptions struct {
	name, output string
	expiry       time.Duration
}

func newCredentialCreate(deps *command.Deps) *cobra.Command {
	var o credentialOptions
	c := command.Verb(&cobra.Command{
		Use: "create [OPTIONS] NAME", Short: "Create a client certificate, with which a remote machine may use this swarm", Args: usage.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runCredentialCreate(c.Context(), deps, o)
		},
	})
	c.Flags().StringVarP(&o.output, "output", "o", "", "File to write, which must not exist (default NAME.pem)")
	c.Flags().DurationVar(&o.expiry, "expiry", 0, "Validity period (ns|us|ms|s|m|h) (default and maximum: that of a node's certificate, and the rest of your own credential's)")
	return c
}

func runCredentialCreate(ctx context.Context, deps *command.Deps, o credentialOptions) error {
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
		if err := writeSecretFile(o.output, EncodeCredential(cred, bundle)); err != nil {
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

type credentialLsOptions struct {
	command.ListOptions
	noTrunc bool
}

func newCredentialLs(deps *command.Deps) *cobra.Command {
	var o credentialLsOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List client certificates", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runCredentialLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o.ListOptions, "Only display credential IDs", credentialFilters)
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate the output")
	return c
}

var credentialListing = term.Table{
	Columns: []term.Column{{"ID", "CREDENTIAL ID"}, {"Name", "NAME"}, {"Until", "VALID UNTIL"}, {"Issuer", "CREATED BY"}},
	More:    []term.Column{{"IssuerID", "CREATED WITH"}, {"CreatedAt", "CREATED AT"}},
}

func runCredentialLs(ctx context.Context, deps *command.Deps, o credentialLsOptions) error {
	filter, _, err := flag.ParseFilters(o.Filters, credentialFilters...)
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
		return deps.PrintTable(credentialListing, o.Format, rows)
	})
}

func newCredentialRm(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "rm [OPTIONS] CREDENTIAL [CREDENTIAL...]", Aliases: []string{"remove"}, Short: "Revoke one or more client certificates", Args: usage.MinArgs(1),
		Long: `Revoke client certificates by ID, by the beginning of an ID (4 characters or more), or by name.

A name revokes all certificates of that name. Whoever holds one is refused from
then on, and open connections are closed. Certificates that were created with
one of them stay: they are listed, to be revoked too if they are not trusted.`,
		ValidArgsFunction: completeCredentials(deps),
		RunE: func(c *cobra.Command, args []string) error {
			return deps.Connect(c.Context(), func(cl command.Client) error {
				return deps.OnEach(args, func(ref string) error {
					err := runCredentialRm(c.Context(), deps, cl, ref)
					if force && command.IsNotFound(err) {
						return nil
					}
					return err
				})
			})
		},
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the credential does not exist")
	return c
}

func runCredentialRm(ctx context.Context, deps *command.Deps, c command.Client, ref string) error {
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

// completeCredentials offers ids, with the names as descriptions: a name may stand for several.
func completeCredentials(deps *command.Deps) cobra.CompletionFunc {
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

// writeSecretFile writes a new file that only its owner reads.
func writeSecretFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write credential: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("write credential %s: %w", path, err), os.Remove(path))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// EncodeCredential is a credential file: the certificate, its key, then the cluster's roots, all in PEM. It is a secret.
func EncodeCredential(c pki.Credential, roots *pki.Bundle) []byte {
	return append(c.PEM(), roots.PEM()...)
}

// DecodeCredential reads what EncodeCredential wrote.
func DecodeCredential(data []byte) (pki.Credential, *pki.Bundle, error) {
	end := []byte("PRIVATE KEY-----\n")
	at := bytes.LastIndex(data, end)
	if at < 0 {
		return pki.Credential{}, nil, errdefs.ErrInvalidArgument.WithMessage("credential holds no private key: create one with `swarm credential create`")
	}
	at += len(end)
	c, err := pki.ParseCredential(data[:at])
	if err != nil {
		return pki.Credential{}, nil, err
	}
	roots, err := pki.ParseBundle(data[at:])
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("credential's roots: %w", err)
	}
	return c, roots, nil
}

// ReadCredential reads a credential file.
func ReadCredential(path string) (pki.Credential, *pki.Bundle, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pki.Credential{}, nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
			"no client certificate at %s, which a remote daemon asks for: create one with `swarm credential create NAME` on a manager, and name it with --credential", path))
	}
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("read credential: %w", err)
	}
	c, roots, err := DecodeCredential(data)
	if err != nil {
		return pki.Credential{}, nil, fmt.Errorf("credential %s: %w", path, err)
	}
	return c, roots, nil
}
