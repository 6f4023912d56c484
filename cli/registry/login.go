package registry

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/command"
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

// NewLogin returns the verb `swarm login`.
func NewLogin(deps *command.Deps) *cobra.Command {
	var o loginOptions
	c := command.Verb(&cobra.Command{
		Use: "login [OPTIONS] [SERVER]", Short: "Log in to a registry", Args: usage.MaxArgs(1), ValidArgsFunction: completeRegistries(deps),
		Long: "Log in to a registry.\n\nA manager tries the user name and password at the registry. If the registry accepts them, they are stored where\n" +
			"`docker login` stores them. Without a server, the registry is Docker Hub.",
		Example: "  swarm login registry.example.com\n  swarm login -u jane --password-stdin registry.example.com <password.txt",
		RunE: func(c *cobra.Command, args []string) error {
			o.server, o.passwordGiven = strings.Join(args, ""), c.Flags().Changed("password")
			if err := o.validate(c); err != nil {
				return err
			}
			return runLogin(c.Context(), deps, o)
		},
	})
	c.Flags().StringVarP(&o.user, "username", "u", "", "Username")
	c.Flags().StringVarP(&o.password, "password", "p", "", "Password (other users of this machine can read it: prefer --password-stdin)")
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

func runLogin(ctx context.Context, deps *command.Deps, o loginOptions) error {
	keys, err := command.Keychain(deps)
	if err != nil {
		return err
	}
	key := keychain.Key(o.server)
	if o.passwordGiven {
		fmt.Fprintln(deps.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if o.user == "" && !o.passwordGiven {
		done, user, err := loginAgain(ctx, deps, keys, key)
		if done || err != nil {
			return err
		}
		o.known = user
	}
	if err := askCredentials(deps, &o, key); err != nil {
		return err
	}
	c := keychain.Credentials{Username: o.user, Password: o.password, ServerAddress: key}
	if err := checkLogin(ctx, deps, key, c); err != nil {
		return err
	}
	if err := keys.Store(ctx, key, c); err != nil {
		return err
	}
	if keys.Helper(key) == "" {
		term.Printf(deps.Err, "WARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper (credsStore in that file) to remove this warning.\n", keys.Path())
	}
	fmt.Fprintln(deps.Out, "Login Succeeded")
	return nil
}

// loginAgain tries the stored credentials, as Docker does. If the registry refuses them and the
// input is a terminal, it returns their user name, which askUser then offers as the default.
func loginAgain(ctx context.Context, deps *command.Deps, keys *keychain.File, key string) (done bool, user string, err error) {
	c, err := keys.Find(ctx, key)
	if err != nil || c == nil {
		return false, "", err
	}
	fmt.Fprintln(deps.Err, "Authenticating with existing credentials...")
	err = checkLogin(ctx, deps, key, *c)
	switch {
	case err == nil:
		fmt.Fprintln(deps.Out, "Login Succeeded")
		return true, "", nil
	case command.IsUnauthorized(err) && term.TerminalOf(deps.In) != nil:
		term.Printf(deps.Err, "%s\n", term.ErrorLine(err))
		return false, c.Username, nil
	}
	return false, "", err
}

func checkLogin(ctx context.Context, deps *command.Deps, key string, c keychain.Credentials) error {
	header, err := c.Header()
	if err != nil {
		return err
	}
	server := key
	if key == keychain.DockerHub {
		server = "docker.io"
	}
	return deps.Connect(ctx, func(cl command.Client) error {
		_, err := cl.Login(ctx, &swarmv1.LoginRequest{Server: server, RegistryAuth: header})
		return err
	})
}

// maxPassword bounds the length of a password, in bytes.
const maxPassword = 64 << 10

// askCredentials asks the user for the name and the password unless flags gave them.
func askCredentials(deps *command.Deps, o *loginOptions, key string) error {
	if o.fromStdin {
		text, err := io.ReadAll(io.LimitReader(deps.In, maxPassword))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		o.password = strings.TrimRight(string(text), "\r\n")
	}
	tty := term.TerminalOf(deps.In)
	asks := !o.fromStdin && !o.passwordGiven
	if tty == nil && (o.user == "" || asks) {
		return usage.Invalidf("cannot ask for a password: standard input is no terminal; use -u NAME --password-stdin")
	}
	if o.user == "" || o.known != "" {
		if err := askUser(deps, o, key); err != nil {
			return err
		}
	}
	if asks {
		fmt.Fprint(deps.Err, "Password: ")
		password, err := enter(deps.In, io.Discard)
		fmt.Fprintln(deps.Err)
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

// askUser asks for the user name. An empty answer stands for the name that was stored.
func askUser(deps *command.Deps, o *loginOptions, key string) error {
	offer := ""
	if o.known != "" {
		offer = " (" + o.known + ")"
	}
	term.Printf(deps.Err, "Username for %s%s: ", keychain.Host(key), offer)
	line, err := enter(deps.In, term.Unescaped(deps.Err))
	fmt.Fprintln(deps.Err)
	if err != nil {
		return err
	}
	if o.user = strings.TrimSpace(line); o.user == "" {
		o.user = o.known
	}
	return nil
}

// enter reads one line from a terminal and shows the typed characters on echo. While it reads, the
// terminal is in raw mode, so that the terminal shows nothing itself and an interrupt ends the
// reading. It does not read beyond the end of the line.
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

// NewLogout returns the verb `swarm logout`.
func NewLogout(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "logout [SERVER]", Short: "Log out from a registry", Args: usage.MaxArgs(1), ValidArgsFunction: completeRegistries(deps),
		RunE: func(c *cobra.Command, args []string) error {
			return runLogout(c.Context(), deps, strings.Join(args, ""))
		},
	})
}

func runLogout(ctx context.Context, deps *command.Deps, server string) error {
	keys, err := command.Keychain(deps)
	if err != nil {
		return err
	}
	key := keychain.Key(server)
	had, err := keys.Erase(ctx, key)
	if err != nil {
		return err
	}
	if !had {
		term.Printf(deps.Out, "Not logged in to %s\n", key)
		return nil
	}
	term.Printf(deps.Out, "Removing login credentials for %s\n", key)
	return nil
}

// completeRegistries completes the registries for which credentials are stored.
func completeRegistries(deps *command.Deps) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		keys, err := command.Keychain(deps)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return keys.Registries(), cobra.ShellCompDirectiveNoFileComp
	}
}
