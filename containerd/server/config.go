//go:build linux

package server

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"

	"swarm/containerd/layout"
)

const defaultLogLevel = "warn"

// Config says which folders and sockets a server uses. Package layout has the names that the rest
// of swarm expects.
type Config struct {
	Root    string // persistent: content, snapshots, metadata
	State   string // transient: bundles, shim sockets, exit records; at most 40 characters
	Address string // the gRPC socket; ttrpc listens beside it on Address + ".ttrpc"
	BinDir  string // the folder of the shim to use
	// LogLevel is logrus's name of the lowest level that is written to stderr; "" is warn.
	LogLevel string
}

// Args returns the command line, after `swarm runtime`, that ParseArgs turns into c.
func (c Config) Args() []string {
	return []string{
		"--root", c.Root, "--state", c.State, "--address", c.Address,
		"--bin-dir", c.BinDir, "--log-level", cmp.Or(c.LogLevel, defaultLogLevel),
	}
}

// ParseArgs reads the arguments of `swarm runtime`. ErrInvalidArgument: they are not valid.
func ParseArgs(args []string) (Config, error) {
	var c Config
	fs := flag.NewFlagSet("runtime", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.Root, "root", "", "")
	fs.StringVar(&c.State, "state", "", "")
	fs.StringVar(&c.Address, "address", "", "")
	fs.StringVar(&c.BinDir, "bin-dir", "", "")
	fs.StringVar(&c.LogLevel, "log-level", defaultLogLevel, "")
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if errors.Is(err, flag.ErrHelp) {
		err = errors.New("the daemon starts this with --root --state --address --bin-dir [--log-level]; it is not meant for people")
	}
	if err != nil {
		return Config{}, fmt.Errorf("runtime: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

func (c Config) validate() error {
	for _, p := range []struct{ name, path string }{
		{"root", c.Root}, {"state", c.State}, {"address", c.Address}, {"bin-dir", c.BinDir},
	} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("runtime --%s %q is not an absolute path: %w", p.name, p.path, errdefs.ErrInvalidArgument)
		}
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		return fmt.Errorf("runtime --root and --state are both %s: choose two folders: %w", c.Root, errdefs.ErrInvalidArgument)
	}
	return layout.ValidateState(c.State)
}
