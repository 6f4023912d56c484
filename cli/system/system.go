package system

import (
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/prune"
)

// New returns the group of commands `swarm system`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "system", Short: "Manage what lies on the nodes' disks, and watch events"}, newDf(deps), NewInfo(deps), NewEvents(deps), prune.NewSystem(deps))
}
