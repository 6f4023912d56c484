package spec

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

// The defaults of fields that a spec does not set. They are the defaults of Docker unless a comment
// says otherwise.
const (
	DefaultRestartDelay    = 5 * time.Second
	DefaultMonitor         = 5 * time.Second
	DefaultStopGracePeriod = 10 * time.Second
	// DefaultPids limits the processes and threads of a container, so that a container that forks
	// without end leaves its host able to work. The kernel has 32768 for the whole host, or 4
	// million. Docker has no limit. A service that needs more sets a limit of its own.
	DefaultPids        = 4096
	DefaultParallelism = 1
	DefaultTaskHistory = 5
	// DefaultRevisionHistory is how many revisions of a service stay besides those in use.
	DefaultRevisionHistory = 100
	DefaultCertExpiry      = 90 * 24 * time.Hour
	// DefaultHeartbeat and DefaultSessionTimeout limit how long a lost node goes unnoticed (Docker:
	// 5 s and 15 s).
	DefaultHeartbeat      = time.Second
	DefaultSessionTimeout = 10 * time.Second
	// MissedHeartbeats is the number of missed heartbeats after which a node is doubtful. A session
	// timeout is at least that many heartbeat periods.
	MissedHeartbeats = 3
	// FenceMargin is the time after the end of the lease of a node during which its single-writer
	// tasks still count as running. In that time, a shim notices the end of the lease and kills its
	// container.
	FenceMargin         = time.Second
	DefaultClusterPort  = 2377
	DefaultGossipPort   = 7946
	DefaultDataPathPort = 4789
	DefaultAddrPool     = "10.0.0.0/8"
	DefaultSubnetSize   = 24
)

func defaultService(s *swarmv1.ServiceSpec) {
	if s.Mode == nil || s.Mode.Mode == nil {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: 1}}}
	}
	defaultMode(s.Mode)
	if s.TaskTemplate == nil {
		s.TaskTemplate = &swarmv1.TaskSpec{}
	}
	defaultTask(s.TaskTemplate, IsJob(s.Mode))
	if s.UpdateConfig == nil {
		s.UpdateConfig = &swarmv1.UpdateConfig{Parallelism: DefaultParallelism}
	}
	if s.RollbackConfig == nil {
		s.RollbackConfig = &swarmv1.UpdateConfig{Parallelism: DefaultParallelism}
	}
	for _, u := range []*swarmv1.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if u.Monitor == nil {
			u.Monitor = durationpb.New(DefaultMonitor)
		}
	}
	if s.EndpointSpec == nil {
		s.EndpointSpec = &swarmv1.EndpointSpec{}
	}
	if s.Job != nil && s.Job.HistoryLimit == 0 {
		s.Job.HistoryLimit = DefaultRunHistory
	}
}

func defaultMode(m *swarmv1.ServiceMode) {
	switch mode := m.Mode.(type) {
	case *swarmv1.ServiceMode_Replicated:
		if mode.Replicated == nil {
			mode.Replicated = &swarmv1.ReplicatedService{}
		}
	case *swarmv1.ServiceMode_Global:
		if mode.Global == nil {
			mode.Global = &swarmv1.GlobalService{}
		}
	case *swarmv1.ServiceMode_GlobalJob:
		if mode.GlobalJob == nil {
			mode.GlobalJob = &swarmv1.GlobalJob{}
		}
	case *swarmv1.ServiceMode_ReplicatedJob:
		if mode.ReplicatedJob == nil {
			mode.ReplicatedJob = &swarmv1.ReplicatedJob{}
		}
		j := mode.ReplicatedJob
		if j.MaxConcurrent == 0 {
			j.MaxConcurrent = max(1, j.TotalCompletions)
		}
		if j.TotalCompletions == 0 {
			j.TotalCompletions = j.MaxConcurrent
		}
	}
}

func defaultTask(t *swarmv1.TaskSpec, job bool) {
	if t.ContainerSpec == nil {
		t.ContainerSpec = &swarmv1.ContainerSpec{}
	}
	if t.ContainerSpec.StopGracePeriod == nil {
		t.ContainerSpec.StopGracePeriod = durationpb.New(DefaultStopGracePeriod)
	}
	defaultLimits(t)
	if t.RestartPolicy == nil {
		t.RestartPolicy = &swarmv1.RestartPolicy{}
	}
	if t.RestartPolicy.Delay == nil {
		t.RestartPolicy.Delay = durationpb.New(DefaultRestartDelay)
	}
	if d := t.LogDriver; d.GetName() == "" {
		if t.LogDriver = nil; len(d.GetOptions()) > 0 {
			t.LogDriver = &swarmv1.Driver{Name: LogLocal, Options: d.GetOptions()}
		}
	}
	if job && t.RestartPolicy.Condition == swarmv1.RestartPolicy_ANY {
		// A job task that ended with success is complete, so "any" means "on failure" for a job.
		t.RestartPolicy.Condition = swarmv1.RestartPolicy_ON_FAILURE
	}
}

func defaultLimits(t *swarmv1.TaskSpec) {
	if t.Resources == nil {
		t.Resources = &swarmv1.ResourceRequirements{}
	}
	if t.Resources.Limits == nil {
		t.Resources.Limits = &swarmv1.Resources{}
	}
	if l := t.Resources.Limits; l.Pids == nil {
		l.Pids = proto.Int64(DefaultPids)
	}
}

// IsJob reports whether the mode is that of a job, whose tasks run to their end once.
func IsJob(m *swarmv1.ServiceMode) bool {
	return m.GetReplicatedJob() != nil || m.GetGlobalJob() != nil
}

func defaultCluster(c *swarmv1.ClusterSpec) {
	if c.Orchestration == nil {
		c.Orchestration = &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: DefaultTaskHistory}
	}
	if c.Orchestration.RevisionHistoryLimit == 0 {
		c.Orchestration.RevisionHistoryLimit = DefaultRevisionHistory
	}
	if c.Dispatcher == nil {
		c.Dispatcher = &swarmv1.DispatcherConfig{}
	}
	if c.CaConfig == nil {
		c.CaConfig = &swarmv1.CAConfig{}
	}
	if c.Network == nil {
		c.Network = &swarmv1.NetworkDefaults{}
	}
	setDuration(&c.Dispatcher.HeartbeatPeriod, DefaultHeartbeat)
	setDuration(&c.Dispatcher.SessionTimeout, DefaultSessionTimeout)
	setDuration(&c.CaConfig.NodeCertExpiry, DefaultCertExpiry)
	n := c.Network
	if len(n.DefaultAddrPool) == 0 {
		n.DefaultAddrPool = []string{DefaultAddrPool}
	}
	setPort(&n.SubnetSize, DefaultSubnetSize)
	setPort(&n.DataPathPort, DefaultDataPathPort)
	setPort(&n.GossipPort, DefaultGossipPort)
	setPort(&n.ClusterPort, DefaultClusterPort)
}

func setDuration(d **durationpb.Duration, v time.Duration) {
	if *d == nil {
		*d = durationpb.New(v)
	}
}

func setPort(p *uint32, v uint32) {
	if *p == 0 {
		*p = v
	}
}
