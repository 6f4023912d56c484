// Command swarm is the whole of swarm in one file: it dispatches to the shim,
// the runtime process, the daemon or the command line, and does nothing else.
package main

import (
	"fmt"
	"os"
	"strings"
)

// version is stamped by the build.
var version = "devel"

func main() {
	if runAsShim(os.Args) {
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "swarm:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "runtime" {
		return runRuntime(args[1:])
	}
	if len(args) == 1 && args[0] == "version" {
		_, err := fmt.Println(strings.Join(append([]string{"swarm " + version}, components()...), "\n"))
		return err
	}
	return fmt.Errorf("usage: swarm runtime|version")
}
