// Command swarm is the whole of swarm in one file. It dispatches to the shim, the reaper of
// containers, the container runtime, the daemon or the command line, and wires the concrete types
// together. It decides nothing: a decision belongs to the package that owns its noun.
package main

import (
	"context"
	"os"
	"time"

	"swarm/cli"
)

// version and revision are set by the linker.
var (
	version  = "devel"
	revision = ""
)

func main() {
	if runAsAnother(os.Args) {
		return
	}
	os.Exit(cli.Main(context.Background(), cli.Deps{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv, Now: time.Now, Dial: dial, Version: versionInfo(),
		RunDaemon: runDaemon, RunRuntime: runRuntime, StartDaemon: startDaemon, Diagnose: diagnose,
		Installer: installs(), Upgrade: upgrades(), Dev: playgrounds(),
	}, os.Args[1:]))
}
