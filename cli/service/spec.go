package service

import (
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// apply changes the specification as the given flags say. It does not handle flags with several
// values; type lists does.
func (o *flags) apply(s *swarmv1.ServiceSpec) error {
	if s.TaskTemplate == nil {
		s.TaskTemplate = &swarmv1.TaskSpec{}
	}
	if s.TaskTemplate.ContainerSpec == nil {
		s.TaskTemplate.ContainerSpec = &swarmv1.ContainerSpec{}
	}
	if err := o.applyContainer(s.TaskTemplate.ContainerSpec); err != nil {
		return err
	}
	if err := o.applyHealth(s.TaskTemplate.ContainerSpec); err != nil {
		return err
	}
	if err := o.applyResources(s.TaskTemplate); err != nil {
		return err
	}
	o.applyLogs(s.TaskTemplate)
	if err := o.applyRestart(s.TaskTemplate); err != nil {
		return err
	}
	if err := o.applyPolicy("update", o.update, s, &s.UpdateConfig); err != nil {
		return err
	}
	if err := o.applyPolicy("rollback", o.rollback, s, &s.RollbackConfig); err != nil {
		return err
	}
	if o.given("endpoint-mode") {
		endpointOf(s).Mode = swarmv1.EndpointSpec_Mode(swarmv1.EndpointSpec_Mode_value[strings.ToUpper(o.endpointMode.Value)])
	}
	if o.given("priority") {
		if o.priority < -1000 || o.priority > 1000 {
			return usage.Invalidf("priority %d is out of range: use -1000 to 1000", o.priority)
		}
		s.Priority = int32(o.priority)
	}
	set(o, "single-writer", &s.SingleWriter, o.singleWriter)
	if err := o.checkJobFlags(s); err != nil {
		return err
	}
	o.applyJob(s)
	return o.applyScale(s)
}

// set writes a value when its flag was given.
func set[T any](o *flags, name string, dst *T, v T) {
	if o.given(name) {
		*dst = v
	}
}

// setDuration writes a duration when its flag was given. It refuses a negative one.
func setDuration(o *flags, name string, dst **durationpb.Duration, v time.Duration) error {
	if !o.given(name) {
		return nil
	}
	if v < 0 {
		return usage.Invalidf("--%s %s is negative: use a positive duration", name, v)
	}
	*dst = durationpb.New(v)
	return nil
}

func (o *flags) applyContainer(c *swarmv1.ContainerSpec) (err error) {
	set(o, "workdir", &c.Dir, o.workdir)
	set(o, "user", &c.User, o.user)
	set(o, "hostname", &c.Hostname, o.hostname)
	set(o, "isolation", &c.Isolation, o.isolation)
	set(o, "platform", &c.Platform, o.platform)
	set(o, "stop-signal", &c.StopSignal, o.stopSignal)
	set(o, "tty", &c.Tty, o.tty)
	set(o, "open-stdin", &c.OpenStdin, o.stdin)
	set(o, "read-only", &c.ReadOnly, o.readOnly)
	set(o, "privileged", &c.Privileged, o.privileged)
	set(o, "init", &c.Init, &o.init)
	set(o, "shm-size", &c.ShmSize, o.shmSize.Bytes)
	set(o, "entrypoint", &c.Command, o.entrypoint.Values)
	if o.given("oom-score-adj") {
		if o.oomScoreAdj < -1000 || o.oomScoreAdj > 1000 {
			return usage.Invalidf("--oom-score-adj %d is out of range: use -1000 to 1000", o.oomScoreAdj)
		}
		c.OomScoreAdj = o.oomScoreAdj
	}
	if o.given("security-opt") {
		if c.Privileges, err = flag.SecurityOpts(c.Privileges, o.securityOpts.Values); err != nil {
			return err
		}
	}
	return setDuration(o, "stop-grace-period", &c.StopGracePeriod, o.stopGrace)
}

func (o *flags) applyHealth(c *swarmv1.ContainerSpec) error {
	tests := map[string][]string{
		"health-cmd":  {"CMD-SHELL", o.healthCmd},
		"health-http": {"HTTP", o.healthHTTP},
		"health-tcp":  {"TCP", o.healthTCP},
		"health-grpc": append([]string{"GRPC"}, strings.Split(o.healthGRPC, ",")...),
	}
	var asked []string
	for name := range tests {
		if o.given(name) {
			asked = append(asked, name)
		}
	}
	slices.Sort(asked)
	timing := o.given("health-interval", "health-timeout", "health-retries", "health-start-period", "health-start-interval")
	switch {
	case o.noHealth && (len(asked) > 0 || timing):
		return usage.Invalidf("--no-healthcheck conflicts with --health-* options: give one or the other")
	case o.noHealth:
		c.Healthcheck = &swarmv1.HealthConfig{Test: []string{"NONE"}}
		return nil
	case len(asked) > 1:
		return usage.Invalidf("--%s and --%s exclude each other: give one check", asked[0], asked[1])
	case len(asked) == 0 && !timing:
		return nil
	}
	if c.Healthcheck == nil || slices.Equal(c.Healthcheck.Test, []string{"NONE"}) {
		c.Healthcheck = &swarmv1.HealthConfig{}
	}
	h := c.Healthcheck
	if len(asked) == 1 {
		h.Test = tests[asked[0]]
	}
	if o.healthRetries > math.MaxInt32 {
		return usage.Invalidf("--health-retries %d is out of range: use 0 to %d", o.healthRetries, math.MaxInt32)
	}
	set(o, "health-retries", &h.Retries, uint32(o.healthRetries))
	for _, d := range []struct {
		flag  string
		dst   **durationpb.Duration
		value time.Duration
	}{
		{"health-interval", &h.Interval, o.healthInterval},
		{"health-timeout", &h.Timeout, o.healthTimeout},
		{"health-start-period", &h.StartPeriod, o.healthStart},
		{"health-start-interval", &h.StartInterval, o.healthStartInterval},
	} {
		if err := setDuration(o, d.flag, d.dst, d.value); err != nil {
			return err
		}
	}
	return nil
}

// resourcesOf returns the resources of a task. It adds an empty message if there is none.
func resourcesOf(t *swarmv1.TaskSpec) *swarmv1.ResourceRequirements {
	if t.Resources == nil {
		t.Resources = &swarmv1.ResourceRequirements{}
	}
	return t.Resources
}

func (o *flags) applyResources(t *swarmv1.TaskSpec) error {
	if o.given("limit-cpu", "limit-memory", "limit-pids") {
		r := resourcesOf(t)
		if r.Limits == nil {
			r.Limits = &swarmv1.Resources{}
		}
		if o.limitPids < 0 {
			return usage.Invalidf("--limit-pids %d is negative: use 0 for no limit", o.limitPids)
		}
		set(o, "limit-cpu", &r.Limits.NanoCpus, o.limitCPU.Nano)
		set(o, "limit-memory", &r.Limits.MemoryBytes, o.limitMemory.Bytes)
		set(o, "limit-pids", &r.Limits.Pids, &o.limitPids)
	}
	if o.given("reserve-cpu", "reserve-memory") {
		r := reservationsOf(t)
		set(o, "reserve-cpu", &r.NanoCpus, o.reserveCPU.Nano)
		set(o, "reserve-memory", &r.MemoryBytes, o.reserveMemory.Bytes)
	}
	if o.given("memory-swap") {
		resourcesOf(t).SwapBytes = &o.memorySwap.Bytes
	}
	if o.given("memory-swappiness") {
		if o.memorySwappiness < 0 || o.memorySwappiness > 100 {
			return usage.Invalidf("--memory-swappiness %d is out of range: use 0 to 100", o.memorySwappiness)
		}
		resourcesOf(t).MemorySwappiness = &o.memorySwappiness
	}
	return checkReservations(t)
}

func reservationsOf(t *swarmv1.TaskSpec) *swarmv1.Resources {
	r := resourcesOf(t)
	if r.Reservations == nil {
		r.Reservations = &swarmv1.Resources{}
	}
	return r.Reservations
}

// checkReservations refuses reservations above the limits.
func checkReservations(t *swarmv1.TaskSpec) error {
	limits, reserved := t.GetResources().GetLimits(), t.GetResources().GetReservations()
	if l := limits.GetMemoryBytes(); l != 0 && reserved.GetMemoryBytes() > l {
		return usage.Invalidf("the memory reservation is larger than the memory limit: lower --reserve-memory or raise --limit-memory")
	}
	if l := limits.GetNanoCpus(); l != 0 && reserved.GetNanoCpus() > l {
		return usage.Invalidf("the CPU reservation is larger than the CPU limit: lower --reserve-cpu or raise --limit-cpu")
	}
	return nil
}

func (o *flags) applyLogs(t *swarmv1.TaskSpec) {
	if !o.given("log-driver", "log-opt") {
		return
	}
	if t.LogDriver == nil || o.given("log-driver") {
		t.LogDriver = &swarmv1.Driver{}
	}
	set(o, "log-driver", &t.LogDriver.Name, o.logDriver)
	set(o, "log-opt", &t.LogDriver.Options, flag.AddPairs(nil, o.logOpts.Values))
}

func (o *flags) applyRestart(t *swarmv1.TaskSpec) error {
	if !o.given("restart-condition", "restart-delay", "restart-max-attempts", "restart-window") {
		return nil
	}
	if t.RestartPolicy == nil {
		t.RestartPolicy = &swarmv1.RestartPolicy{}
	}
	p := t.RestartPolicy
	set(o, "restart-condition", &p.Condition, restartCondition(o.restartCondition.Value))
	set(o, "restart-max-attempts", &p.MaxAttempts, o.restartAttempts)
	if err := setDuration(o, "restart-delay", &p.Delay, o.restartDelay); err != nil {
		return err
	}
	return setDuration(o, "restart-window", &p.Window, o.restartWindow)
}

func restartCondition(word string) swarmv1.RestartPolicy_Condition {
	return swarmv1.RestartPolicy_Condition(swarmv1.RestartPolicy_Condition_value[enumName(word)])
}

// enumName returns the name in the protocol for a word of the command line: ON_FAILURE for
// "on-failure".
func enumName(word string) string { return strings.ToUpper(strings.ReplaceAll(word, "-", "_")) }

// applyPolicy sets the flags of an update or a rollback in its policy. If there is no policy yet,
// the new one has a parallelism of 1, because 0 would update all tasks at once.
func (o *flags) applyPolicy(kind string, p policyFlags, s *swarmv1.ServiceSpec, dst **swarmv1.UpdateConfig) error {
	named := func(name string) string { return kind + "-" + name }
	if !o.given(named("parallelism"), named("delay"), named("monitor"), named("failure-action"), named("max-failure-ratio"), named("order")) {
		return nil
	}
	if *dst == nil {
		*dst = &swarmv1.UpdateConfig{Parallelism: 1}
	}
	u := *dst
	if p.failureRatio < 0 || p.failureRatio > 1 {
		return usage.Invalidf("--%s %g is out of range: use 0 to 1", named("max-failure-ratio"), p.failureRatio)
	}
	set(o, named("parallelism"), &u.Parallelism, p.parallelism)
	set(o, named("max-failure-ratio"), &u.MaxFailureRatio, float32(p.failureRatio))
	set(o, named("failure-action"), &u.FailureAction, swarmv1.UpdateConfig_FailureAction(swarmv1.UpdateConfig_FailureAction_value[enumName(p.action.Value)]))
	set(o, named("order"), &u.Order, swarmv1.UpdateConfig_Order(swarmv1.UpdateConfig_Order_value[enumName(p.order.Value)]))
	if err := setDuration(o, named("delay"), &u.Delay, p.delay); err != nil {
		return err
	}
	return setDuration(o, named("monitor"), &u.Monitor, p.monitor)
}

// applyScale sets the flags that say how many tasks there are.
func (o *flags) applyScale(s *swarmv1.ServiceSpec) error {
	if o.given("replicas-max-per-node") {
		placementOf(s.TaskTemplate).MaxReplicas = o.maxPerNode
	}
	mode := term.ModeWord(s.GetMode())
	if o.given("replicas") {
		switch m := s.GetMode().GetMode().(type) {
		case *swarmv1.ServiceMode_Replicated:
			m.Replicated.Replicas = o.replicas
		case *swarmv1.ServiceMode_ReplicatedJob:
			m.ReplicatedJob.TotalCompletions = o.replicas
		default:
			return usage.Invalidf("--replicas does not go with a %s service: it has one task on every node; leave --replicas out", mode)
		}
	}
	job := s.GetMode().GetReplicatedJob()
	if o.given("max-concurrent") {
		if job == nil {
			return usage.Invalidf("--max-concurrent does not go with a %s service: it is for replicated-job", mode)
		}
		job.MaxConcurrent = o.maxConcurrent
	}
	if job != nil && job.MaxConcurrent == 0 {
		job.MaxConcurrent = job.TotalCompletions
	}
	return nil
}

func placementOf(t *swarmv1.TaskSpec) *swarmv1.Placement {
	if t.Placement == nil {
		t.Placement = &swarmv1.Placement{}
	}
	return t.Placement
}

func endpointOf(s *swarmv1.ServiceSpec) *swarmv1.EndpointSpec {
	if s.EndpointSpec == nil {
		s.EndpointSpec = &swarmv1.EndpointSpec{}
	}
	return s.EndpointSpec
}

// parseMode returns the mode that a value of --mode names. Replicated modes have one replica.
func parseMode(word string) *swarmv1.ServiceMode {
	switch word {
	case "global":
		return &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
	case "replicated-job":
		return &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{TotalCompletions: 1}}}
	case "global-job":
		return &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_GlobalJob{GlobalJob: &swarmv1.GlobalJob{}}}
	}
	return &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: 1}}}
}

// createOptions are the flags and arguments of `service create`.
type createOptions struct {
	flags *flags
	lists *lists
	name  string
	mode  flag.Choice
	image string
	args  []string
}

// spec returns the specification that the options describe. Fields that no flag sets stay unset;
// managers set their defaults.
func (o createOptions) spec(getenv func(string) string) (*swarmv1.ServiceSpec, error) {
	if o.name != "" {
		if err := ident.CheckServiceName(o.name); err != nil {
			return nil, err
		}
	}
	if err := flag.CheckImage(o.image); err != nil {
		return nil, err
	}
	s := &swarmv1.ServiceSpec{
		Name: o.name, Mode: parseMode(o.mode.Value),
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: o.image, Args: o.args}},
	}
	if err := o.flags.apply(s); err != nil {
		return nil, err
	}
	env, err := flag.Environment(o.lists.env.Values, o.lists.envFiles.Values, getenv)
	if err != nil {
		return nil, err
	}
	s.TaskTemplate.ContainerSpec.Env = env
	if err := o.lists.addTo(s); err != nil {
		return nil, err
	}
	return s, flag.CheckPorts(s.GetEndpointSpec().GetPorts())
}
