package term

import (
	"fmt"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// UnplacedLine returns why no node takes a task, in one line: "no suitable node (2 nodes: ...; 1
// node: ...); nearest: ...".
func UnplacedLine(u *swarmv1.Unplaced) string {
	line := RefusedLine(u)
	if u.GetNearest() != "" {
		line += "; nearest: " + u.GetNearest()
	}
	return line
}

// RefusedLine is UnplacedLine without the nearest node.
func RefusedLine(u *swarmv1.Unplaced) string {
	words := make([]string, 0, len(u.GetRefusals()))
	for _, r := range u.GetRefusals() {
		words = append(words, RefusalLine(r))
	}
	line := "no suitable node"
	if len(words) > 0 {
		line += " (" + strings.Join(words, "; ") + ")"
	}
	return line
}

// RefusalLine returns why one filter refused nodes, and how many.
func RefusalLine(r *swarmv1.Refusal) string {
	reason := r.GetReason()
	if reason == "" {
		reason = r.GetFilter()
	}
	if r.GetNodes() == 0 {
		return reason // no node was asked
	}
	if strings.Contains(" "+reason, fmt.Sprintf(" %d node", r.GetNodes())) {
		return reason // it counts for itself
	}
	return fmt.Sprintf("%d node%s: %s", r.GetNodes(), Plural(int(r.GetNodes())), reason)
}
