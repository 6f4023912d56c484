// Command init is the reaper and nothing else, for tests.
package main

import (
	"os"

	"swarm/containerd/reaper"
)

func main() { os.Exit(reaper.Main(os.Args)) }
