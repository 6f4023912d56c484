package service

import (
	"strings"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// placementHint returns what the user can do about the filter that refused the most nodes, "" if
// nothing. A missing image comes first, because no node can have it by chance.
func placementHint(u *swarmv1.Unplaced, image string) string {
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
	if worst.GetFilter() == "image" && strings.Contains(u.GetNearest(), "swarm image load") {
		return "" // The error has the hint already.
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
		return loadHint(image)
	}
	return ""
}

// orderHint returns the remedy for a start-first update whose new tasks wait for resources of the
// old ones, "" if the update does not wait for that.
func orderHint(service *swarmv1.ServiceInfo, t *swarmv1.TaskInfo) string {
	if service.GetRevision().GetSpec().GetUpdateConfig().GetOrder() != swarmv1.UpdateConfig_START_FIRST || t.GetStatus().GetState() > swarmv1.TaskState_PENDING || t.GetTask().GetReplaces() == "" || t.GetTask().GetRestarts().GetAttempts() > 0 {
		return ""
	}
	for _, r := range t.GetStatus().GetUnplaced().GetRefusals() {
		switch r.GetFilter() {
		case "cpu", "memory", "generic", "port", "max-replicas", "address":
			return "let old tasks stop before new ones start with `swarm service update --force --update-order stop-first " + service.GetService().GetName() + "`"
		}
	}
	return ""
}

func loadHint(image string) string {
	return "bring the image with `docker save " + image + " | swarm image load`, or use one that a registry has"
}

// imageHint returns the remedy for a task that failed because its image cannot be found, "" for
// other errors.
func imageHint(err, image string) string {
	low := strings.ToLower(err)
	if strings.Contains(low, "swarm image load") {
		return ""
	}
	for _, sign := range []string{"no such image", "pull", "manifest unknown", "image not found", "cannot fetch", "no node holds", "resolve image"} {
		if strings.Contains(low, sign) {
			return loadHint(term.ShortImage(image))
		}
	}
	return ""
}
