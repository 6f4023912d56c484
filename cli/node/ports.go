package node

import (
	"fmt"
	"io"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// writePortConflicts lists the published ports at which a node does not answer.
func writePortConflicts(w io.Writer, conflicts []*swarmv1.PortConflict) {
	var others, unable []string
	for _, c := range conflicts {
		switch c.GetKind() {
		case swarmv1.PortConflict_PROGRAM:
			others = append(others, c.GetReason())
		case swarmv1.PortConflict_UNABLE:
			unable = append(unable, fmt.Sprintf("port %d/%s: %s", c.GetPort(), c.GetProtocol(), c.GetReason()))
		}
	}
	list := func(heading string, lines []string) {
		if len(lines) == 0 {
			return
		}
		term.Printf(w, "%s\n", heading)
		for _, line := range lines {
			term.Printf(w, " - %s\n", line)
		}
	}
	list("Ports used by other programs:", others)
	list("Ports that cannot be served:", unable)
}
