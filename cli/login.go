package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/keychain"
	swarmv1 "swarm/proto/swarm/v1"
)

type loginOptions struct {
	server, user, password   string
	passwordGiven, fromStdin bool
	known                    string // the user name that was stored
}

func (a *app) newLogin() *cobra.Command {
	var o loginOptions
	c := verb(&cobra.Command{
		Use: "login [OPTIONS] [SERVER]", Short: "Log in to a registry", Args: usage.MaxArgs(1), ValidArgsFunction: a.completeRegistries(),
		Long: "Log in to a registry.\n\nA manager asks the registry whether it takes the user name and password; they are then kept where `docker login` keeps\n" +
			"them. Without a server it is Docker Hub.",
		Example: "  swarm login registry.example.com\n  swarm login -u jane --password-stdin registry.example.com <password.txt",
		RunE: func(c *cobra.Command, args []string) error {
			o.server, o.passwordGiven = strings.Join(args, ""), c.Flags().Changed("password")
			if err := o.validate(c); err != nil {
				return err
			}
			return a.runLogin(c.Context(), o)
		},
	})
	c.Flags().StringVarP(&o.user, "username", "u", "", "Username")
	c.Flags().StringVarP(&o.password, "password", "p", "", "Password (others on this machine see it: prefer --password-stdin)")
	c.Flags().BoolVar(&o.fromStdin, "password-stdin", false, "Take the password from stdin")
	return c
}

func (o *loginOptions) validate(c *cobra.Command) error {
	switch {
	case o.passwordGiven && o.fromStdin:
		return usage.Errorf(c, "--password and --password-stdin are mutually exclusive")
	case o.fromStdin && o.user == "":
		return usage.Errorf(c, "--password-stdin needs --username")
	case strings.ContainsAny(o.server, " \t@") || strings.Contains(o.server, "..."):
		return usage.Invalidf("%q is not a registry: write HOST[:PORT]", o.server)
	}
	return nil
}

func (a *app) runLogin(ctx context.Context, o loginOptions) error {
	keys, err := a.keychain()
	if err != nil {
		return err
	}
	key := keychain.Key(o.server)
	if o.passwordGiven {
		fmt.Fprintln(a.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if o.user == "" && !o.passwordGiven {
		done, user, err := a.loginAgain(ctx, keys, key)
		if done || err != nil {
			return err
		}
		o.known = user
	}
	if err := a.askCredentials(&o, key); err != nil {
		return err
	}
	c := keychain.Credentials{Username: o.user, Password: o.password, ServerAddress: key}
	if err := a.checkLogin(ctx, key, c); err != nil {
		return err
	}
	if err := keys.Store(ctx, key, c); err != nil {
		return err
	}
	if keys.Helper(key) == "" {
		term.Printf(a.Err, "WARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper (credsStore in that file) to remove this warning.\n", keys.Path())
	}
	fmt.Fprintln(a.Out, "Login Succeeded")
	return nil
}

// loginAgain tries what is known already, as Docker does. What the registry no longer takes is asked for anew, with the
// same user name on offer.
func (a *app) loginAgain(ctx context.Context, keys *keychain.File, key string) (done bool, user string, err error) {
	c, err := keys.Find(ctx, key)
	if err != nil || c == nil {
		return false, "", err
	}
	fmt.Fprintln(a.Err, "Authenticating with existing credentials...")
	err = a.checkLogin(ctx, key, *c)
	switch {
	case err == nil:
		fmt.Fprintln(a.Out, "Login Succeeded")
		return true, "", nil
	case isUnauthorized(err) && term.TerminalOf(a.In) != nil:
		term.Printf(a.Err, "%s\n", term.ErrorLine(err))
		return false, c.Username, nil
	}
	return false, "", err
}

func (a *app) checkLogin(ctx context.Context, key string, c keychain.Credentials) error {
	header, err := c.Header()
	if err != nil {
		return err
	}
	server := key
	if key == keychain.DockerHub {
		server = "docker.io"
	}
	return a.with(ctx, func(cl client) error {
		_, err := cl.Login(ctx, &swarmv1.LoginRequest{Server: server, RegistryAuth: header})
		return err
	})
}

// maxPassword bounds what is read as one, in bytes.
const maxPassword = 64 << 10

// askCredentials asks for what was not given.
func (a *app) askCredentials(o *loginOptions, key string) error {
	if o.fromStdin {
		text, err := io.ReadAll(io.LimitReader(a.In, maxPassword))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		o.password = strings.TrimRight(string(text), "\r\n")
	}
	tty := term.TerminalOf(a.In)
	asks := !o.fromStdin && !o.passwordGiven
	if tty == nil && (o.user == "" || asks) {
		return usage.Invalidf("cannot ask for a password: standard input is no terminal; use -u NAME --password-stdin")
	}
	if o.user == "" || o.known != "" {
		if err := a.askUser(o, key); err != nil {
			return err
		}
	}
	if asks {
		fmt.Fprint(a.Err, "Password: ")
		password, err := enter(a.In, io.Discard)
		fmt.Fprintln(a.Err)
		if err != nil {
			return err
		}
		o.password = password
	}
	switch {
	case o.user == "":
		return usage.Invalidf("the user name is empty: give one with -u")
	case o.password == "":
		return usage.Invalidf("the password is empty")
	}
	return nil
}

// askUser offers the name that is known.
func (a *app) askUser(o *loginOptions, key string) error {
	offer := ""
	if o.known != "" {
		offer = " (" + o.known + ")"
	}
	term.Printf(a.Err, "Username for %s%s: ", keychain.Host(key), offer)
	line, err := enter(a.In, term.Unescaped(a.Err))
	fmt.Fprintln(a.Err)
	if err != nil {
		return err
	}
	if o.user = strings.TrimSpace(line); o.user == "" {
		o.user = o.known
	}
	return nil
}

// enter reads a line from a terminal, no further than its end, and shows it to echo. The terminal is raw meanwhile, so that
// it shows nothing by itself, and an interrupt ends the reading.
func enter(in io.Reader, echo io.Writer) (string, error) {
	restore, err := term.TerminalOf(in).Raw()
	if err != nil {
		return "", fmt.Errorf("switch the terminal's echo off: %w", err)
	}
	defer restore()
	var line []byte
	var b [1]byte
	for len(line) < maxPassword {
		if n, err := in.Read(b[:]); n == 0 {
			if err != nil {
				return "", fmt.Errorf("nothing was entered: %w", err)
			}
			continue
		}
		switch b[0] {
		case '\r', '\n':
			return string(line), nil
		case 3, 4: // Ctrl-C, Ctrl-D
			return "", context.Canceled
		case 8, 127:
			if len(line) > 0 {
				line = line[:len(line)-1]
				_, _ = io.WriteString(echo, "\b \b")
			}
		default:
			line = append(line, b[0])
			_, _ = echo.Write(b[:])
		}
	}
	return "", usage.Invalidf("the line is too long")
}

func (a *app) newLogout() *cobra.Command {
	return verb(&cobra.Command{
		Use: "logout [SERVER]", Short: "Log out from a registry", Args: usage.MaxArgs(1), ValidArgsFunction: a.completeRegistries(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runLogout(c.Context(), strings.Join(args, ""))
		},
	})
}

func (a *app) runLogout(ctx context.Context, server string) error {
	keys, err := a.keychain()
	if err != nil {
		return err
	}
	key := keychain.Key(server)
	had, err := keys.Erase(ctx, key)
	if err != nil {
		return err
	}
	if !had {
		term.Printf(a.Out, "Not logged in to %s\n", key)
		return nil
	}
	term.Printf(a.Out, "Removing login credentials for %s\n", key)
	return nil
}

// completeRegistries offers those that the file knows.
func (a *app) completeRegistries() cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		keys, err := a.keychain()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return keys.Registries(), cobra.ShellCompDirectiveNoFileComp
	}
}
