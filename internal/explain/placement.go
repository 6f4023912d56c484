package explain

import (
	"fmt"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Unplaced returns why no node is suitable for a task: "no suitable node (2 nodes: ...; 1 node:
// ...); nearest: ...". The nearest node is the one that passed the most filters of the planner.
func Unplaced(u *swarmv1.Unplaced) string {
	line := Refused(u)
	if u.GetNearest() != "" {
		line += "; nearest: " + u.GetNearest()
	}
	return line
}

// Refused returns the text of Unplaced without the nearest node.
func Refused(u *swarmv1.Unplaced) string {
	reasons := make([]string, 0, len(u.GetRefusals()))
	for _, r := range u.GetRefusals() {
		reasons = append(reasons, Refusal(r))
	}
	line := "no suitable node"
	if len(reasons) > 0 {
		line += " (" + strings.Join(reasons, "; ") + ")"
	}
	return line
}

// Refusal returns how many nodes one filter refused, and why: "2 nodes: not enough memory".
func Refusal(r *swarmv1.Refusal) string {
	reason := r.GetReason()
	if reason == "" {
		reason = r.GetFilter()
	}
	if r.GetNodes() == 0 {
		return reason // The refusal does not depend on the node.
	}
	if strings.Contains(" "+reason, fmt.Sprintf(" %d node", r.GetNodes())) {
		return reason // The reason already says how many.
	}
	nodes := "nodes"
	if r.GetNodes() == 1 {
		nodes = "node"
	}
	return fmt.Sprintf("%d %s: %s", r.GetNodes(), nodes, reason)
}

// PlacementHint returns what the user can do so that a node becomes suitable for the task, or "" if
// nothing is known. The hint is for the filter that refused the most nodes. If the image is missing
// on some nodes, the hint is always for the image. image is the reference of the task's image.
func PlacementHint(u *swarmv1.Unplaced, image string) string {
	var worst *swarmv1.Refusal
	for _, r := range u.GetRefusals() {
		if r.GetFilter() == "image" {
			worst = r
			break
		}
		if worst == nil || r.GetNodes() > worst.GetNodes() {
			worst = r
		}
	}
	switch worst.GetFilter() {
	case "constraint":
		return "label a node with `swarm node update --label-add KEY=VALUE NODE`, or change the constraint"
	case "cpu", "memory", "generic":
		return "lower the --reserve-* values, remove other services, or add a node"
	case "address":
		if strings.Contains(worst.GetReason(), "asked for") {
			return "ask for another address, or for none"
		}
		return "lower the replicas, or use a network with a larger subnet: `swarm network create --subnet`, then `swarm service update --network-rm --network-add`"
	case "port":
		return "publish another port, or lower the replicas to the number of free nodes"
	case "max-replicas":
		return "raise --replicas-max-per-node, or add a node"
	case "platform":
		return "use an image for the platform of the nodes"
	case "availability":
		return "let a node take tasks again with `swarm node update --availability active NODE`"
	case "down":
		return "start the nodes that are down, or add one (see `swarm node ls`)"
	case "image":
		if spec.LacksImage(u.GetNearest()) {
			return "" // Unplaced already says how to load it.
		}
		return loadHint(image)
	}
	return ""
}

// StartFirstHint returns what the user can do if an update in start-first order waits for
// resources that the old tasks hold, and "" if that is not why the task waits. s is the spec of the
// service.
func StartFirstHint(s *swarmv1.ServiceSpec, t *swarmv1.Task, st *swarmv1.TaskStatus) string {
	if s.GetUpdateConfig().GetOrder() != swarmv1.UpdateConfig_START_FIRST || st.GetState() > swarmv1.TaskState_PENDING ||
		t.GetReplaces() == "" || t.GetRestarts().GetAttempts() > 0 {
		return ""
	}
	for _, r := range st.GetUnplaced().GetRefusals() {
		switch r.GetFilter() {
		case "cpu", "memory", "generic", "port", "max-replicas", "address":
			return "let old tasks stop before new ones start with `swarm service update --force --update-order stop-first " + s.GetName() + "`"
		}
	}
	return ""
}
