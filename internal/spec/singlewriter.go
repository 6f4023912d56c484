package spec

import (
	"path"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// hostFolders are folders that nodes do not share. A service that mounts a path in one of them
// observes or controls the host of its task.
var hostFolders = []string{"/", "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/lib", "/var/log", "/var/run"}

// AdviseSingleWriter returns a recommendation to use single-writer for a service with one replica
// that writes to files which several nodes may share. It returns "" if the service can never have
// two tasks that write at the same time, or if the user wants two for a time (start-first).
func AdviseSingleWriter(s *swarmv1.ServiceSpec) string {
	if s.GetSingleWriter() || s.GetMode().GetReplicated().GetReplicas() != 1 || tiedToNode(s) ||
		s.GetUpdateConfig().GetOrder() == swarmv1.UpdateConfig_START_FIRST {
		return ""
	}
	for _, m := range s.GetTaskTemplate().GetContainerSpec().GetMounts() {
		if m.GetType() == swarmv1.Mount_BIND && !m.GetReadOnly() && !ofOneHost(m.GetSource()) {
			return "the task of service " + s.GetName() + " writes to " + m.GetSource() +
				": if several nodes share this path, use --single-writer, or a second task may write there while the first one's node is cut off"
		}
	}
	return ""
}

func ofOneHost(source string) bool {
	source = path.Clean(source)
	return path.Ext(source) == ".sock" || slices.ContainsFunc(hostFolders, func(f string) bool {
		return source == f || f != "/" && len(source) > len(f) && source[:len(f)+1] == f+"/"
	})
}

// tiedToNode reports whether a constraint binds the tasks to one node.
func tiedToNode(s *swarmv1.ServiceSpec) bool {
	return slices.ContainsFunc(s.GetTaskTemplate().GetPlacement().GetConstraints(), func(text string) bool {
		c, err := ParseConstraint(text)
		return err == nil && c.PerNode() && !c.Not
	})
}
