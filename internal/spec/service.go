package spec

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"swarm/internal/ident"
	"swarm/internal/publish"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxReplicas is the most replicas of one service. It is the capacity of the largest cluster
	// that this design supports, and small enough to catch typing errors. Nodes accept any number
	// of tasks that reserve nothing, and a task costs the managers about 1 KB.
	MaxReplicas = 100_000
	maxPriority = 1000
	maxLabels   = 1 << 16 // the size of all labels of an object, in bytes
)

// Service returns a complete and valid copy of the spec of a service: the image is normalised and
// the defaults are filled in.
func Service(in *swarmv1.ServiceSpec) (*swarmv1.ServiceSpec, error) {
	if in == nil {
		return nil, invalid("service spec is missing: name an image and how many replicas")
	}
	s := in.CloneVT()
	defaultService(s)
	if err := checkService(s); err != nil {
		return nil, err
	}
	img, err := ParseImage(s.GetTaskTemplate().GetContainerSpec().GetImage())
	if err != nil {
		return nil, err
	}
	s.TaskTemplate.ContainerSpec.Image = img.String()
	return s, nil
}

func checkService(s *swarmv1.ServiceSpec) error {
	if err := firstError(
		ident.CheckServiceName(s.GetName()),
		checkLabels("service", s.GetLabels()),
		checkJob(s),
		checkMode(s.GetMode()),
		checkContainer(s.GetTaskTemplate().GetContainerSpec()),
		template.Check(s),
		checkResources(s.GetTaskTemplate().GetResources()),
		checkRestart(s.GetTaskTemplate().GetRestartPolicy()),
		checkPlacement(s.GetTaskTemplate().GetPlacement()),
		checkAttachments(s.GetTaskTemplate().GetNetworks()),
		checkLog(s.GetTaskTemplate().GetLogDriver()),
		checkUpdate("update", s.GetUpdateConfig()),
		checkUpdate("rollback", s.GetRollbackConfig()),
		checkEndpoint(s.GetEndpointSpec()),
	); err != nil {
		return err
	}
	if s.GetRollbackConfig().GetFailureAction() == swarmv1.UpdateConfig_ROLLBACK {
		return invalid("rollback failure action is rollback, which would never end: use pause or continue")
	}
	if p := s.GetPriority(); p < -maxPriority || p > maxPriority {
		return invalid("priority %d is out of range: use %d to %d", p, -maxPriority, maxPriority)
	}
	return firstError(checkPerNode(s), checkModePorts(s), checkNetworkPorts(s), checkRequestedAddresses(s), checkSingleWriter(s))
}

// checkSingleWriter refuses a spec with which two tasks of a slot would run at the same time.
func checkSingleWriter(s *swarmv1.ServiceSpec) error {
	switch {
	case !s.GetSingleWriter():
		return nil
	case s.GetMode().GetReplicated() == nil:
		return invalid("single-writer is for replicated services: leave it out, or use replicated mode")
	case s.GetUpdateConfig().GetOrder() == swarmv1.UpdateConfig_START_FIRST:
		return invalid("single-writer and update order start-first exclude each other: a new task would start beside the old one; use stop-first")
	case s.GetRollbackConfig().GetOrder() == swarmv1.UpdateConfig_START_FIRST:
		return invalid("single-writer and rollback order start-first exclude each other: a new task would start beside the old one; use stop-first")
	}
	return nil
}

// checkRequestedAddresses refuses a requested address if the service can have more than one task.
func checkRequestedAddresses(s *swarmv1.ServiceSpec) error {
	for _, n := range s.GetTaskTemplate().GetNetworks() {
		if r := s.GetMode().GetReplicated(); len(n.GetAddresses()) > 0 && (r == nil || r.GetReplicas() > 1) {
			return invalid("address %s of network %s can belong to one task only: leave it out, or use one replica", n.GetAddresses()[0], n.GetTarget())
		}
	}
	return nil
}

func checkMode(m *swarmv1.ServiceMode) error {
	switch mode := m.GetMode().(type) {
	case *swarmv1.ServiceMode_Replicated:
		return checkCount("replicas", mode.Replicated.GetReplicas(), 0)
	case *swarmv1.ServiceMode_ReplicatedJob:
		return firstError(
			checkCount("max-concurrent", mode.ReplicatedJob.GetMaxConcurrent(), 1),
			checkCount("total completions", mode.ReplicatedJob.GetTotalCompletions(), 1))
	}
	return nil
}

func checkCount(what string, n, least uint64) error {
	if n < least || n > MaxReplicas {
		return invalid("%s %d is out of range: use %d to %d", what, n, least, MaxReplicas)
	}
	return nil
}

// checkNetworkPorts refuses ports that cannot be published on the networks host and none.
func checkNetworkPorts(s *swarmv1.ServiceSpec) error {
	uses := s.GetTaskTemplate().GetNetworks()
	if len(uses) != 1 || uses[0].GetTarget() != "host" && uses[0].GetTarget() != "none" {
		return nil
	}
	for _, p := range s.GetEndpointSpec().GetPorts() {
		own := !publish.ByMesh(p) && p.GetPublishedPort() == p.GetTargetPort()
		switch {
		case uses[0].GetTarget() == "none":
			return invalid("port %s cannot be published on network none: leave it out, or use another network", portName(p))
		case !own:
			return invalid("port %s cannot be published on network host, where tasks have the host's own ports: leave it out, or use another network", portName(p))
		}
	}
	return nil
}

// checkPerNode refuses a limit of tasks per node for a global service, which has one on each node.
func checkPerNode(s *swarmv1.ServiceSpec) error {
	_, global := s.GetMode().GetMode().(*swarmv1.ServiceMode_Global)
	_, job := s.GetMode().GetMode().(*swarmv1.ServiceMode_GlobalJob)
	if (global || job) && s.GetTaskTemplate().GetPlacement().GetMaxReplicas() > 0 {
		return invalid("replicas-max-per-node does not go with a global service, which has one task on every node: leave it out")
	}
	return nil
}

func checkModePorts(s *swarmv1.ServiceSpec) error {
	if s.GetEndpointSpec().GetMode() != swarmv1.EndpointSpec_DNSRR {
		return nil
	}
	for _, p := range s.GetEndpointSpec().GetPorts() {
		if publish.ByMesh(p) {
			return invalid("port %s is published through the mesh, which needs a virtual address, but the endpoint mode is dnsrr: use mode=host or endpoint mode vip", portName(p))
		}
	}
	return nil
}

func checkLabels(kind string, labels map[string]string) error {
	size := 0
	for k, v := range labels {
		size += len(k) + len(v)
		if strings.TrimSpace(k) == "" {
			return invalid("%s label %s has no key: write KEY=VALUE", kind, quote("="+v))
		}
	}
	if size > maxLabels {
		return invalid("%s labels take %d bytes: at most %d are allowed; keep large data in a volume or in the image", kind, size, maxLabels)
	}
	return nil
}

func checkRestart(p *swarmv1.RestartPolicy) error {
	if _, ok := swarmv1.RestartPolicy_Condition_name[int32(p.GetCondition())]; !ok {
		return invalid("restart condition %d is not known: use none, on-failure or any", p.GetCondition())
	}
	return firstError(
		checkDuration("restart delay", p.GetDelay()),
		checkDuration("restart window", p.GetWindow()),
		checkCount("restart max-attempts", p.GetMaxAttempts(), 0))
}

func checkUpdate(kind string, u *swarmv1.UpdateConfig) error {
	if u == nil {
		return nil
	}
	if r := u.GetMaxFailureRatio(); !(r >= 0 && r <= 1) {
		return invalid("%s max-failure-ratio %g is out of range: use 0 to 1", kind, r)
	}
	if _, ok := swarmv1.UpdateConfig_FailureAction_name[int32(u.GetFailureAction())]; !ok {
		return invalid("%s failure action %d is not known: use pause, continue or rollback", kind, u.GetFailureAction())
	}
	if _, ok := swarmv1.UpdateConfig_Order_name[int32(u.GetOrder())]; !ok {
		return invalid("%s order %d is not known: use stop-first or start-first", kind, u.GetOrder())
	}
	return firstError(
		checkCount(kind+" parallelism", u.GetParallelism(), 0),
		checkDuration(kind+" delay", u.GetDelay()),
		checkDuration(kind+" monitor", u.GetMonitor()))
}

func checkDuration(what string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil {
		return invalid("%s is not a duration: write it like 10s or 1m30s", what)
	}
	if d.AsDuration() < 0 {
		return invalid("%s %s is negative: use 0s or more", what, d.AsDuration())
	}
	return nil
}

func checkPlacement(p *swarmv1.Placement) error {
	if err := checkConstraints(p.GetConstraints()); err != nil {
		return err
	}
	for _, pref := range p.GetPreferences() {
		if _, err := Preference(pref); err != nil {
			return err
		}
	}
	return checkCount("max replicas per node", p.GetMaxReplicas(), 0)
}

func checkAttachments(list []*swarmv1.NetworkAttachmentConfig) error {
	seen := make(map[string]bool, len(list))
	for _, n := range list {
		t := n.GetTarget()
		switch {
		case t == "":
			return invalid("network name is empty: name one, for example --network bridge")
		case seen[t]:
			return invalid("network %s is named twice: name each network once", quote(t))
		}
		seen[t] = true
	}
	if (seen["host"] || seen["none"]) && len(list) > 1 {
		return invalid("networks host and none cannot be combined with others: name one of them alone")
	}
	return nil
}

// portName returns a published port as users write it.
func portName(p *swarmv1.PortConfig) string {
	return fmt.Sprintf("%d:%d/%s", p.GetPublishedPort(), p.GetTargetPort(), publish.Protocol(p.GetProtocol()))
}
