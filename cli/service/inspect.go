package service

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

func newInspect(deps *command.Deps) *cobra.Command {
	return command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] SERVICE[@REVISION] [SERVICE[@REVISION]...]", Short: "Display detailed information on one or more services", Complete: complete.Services(deps),
		Object: inspectedService,
		Write: func(ctx context.Context, c command.Client, w io.Writer, ref string) error {
			return writePretty(ctx, c, w, ref, deps.Now())
		},
	})
}

func inspectedService(ctx context.Context, c command.Client, ref string) (term.Object, error) {
	s, err := findService(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	previous, err := command.FindRevision(ctx, c, s.Service.Id, s.Service.GetPreviousRevision())
	return object(s, previous.GetSpec()), err
}

// findService returns a service. ref may end with "@" and the number of a revision. Then the
// service has that revision in the place of the current one, and no previous revision.
func findService(ctx context.Context, c command.Client, ref string) (*swarmv1.ServiceInfo, error) {
	name, number, err := splitRevision(ref)
	if err != nil {
		return nil, err
	}
	s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: name})
	if err != nil || number == 0 {
		return s, err
	}
	rev, err := wantRevision(ctx, c, s, number)
	if err != nil {
		return nil, err
	}
	s = s.CloneVT()
	s.Revision, s.Service.Revision, s.Service.PreviousRevision = rev, number, 0
	return s, nil
}

// splitRevision splits a reference NAME@REVISION. The number is 0 if there is none.
func splitRevision(ref string) (name string, number uint64, err error) {
	name, text, ok := strings.Cut(ref, "@")
	if !ok {
		return ref, 0, nil
	}
	number, err = parseRevision(text)
	return name, number, err
}

// parseRevision parses the number of a revision, which may begin with "@".
func parseRevision(text string) (uint64, error) {
	number, err := strconv.ParseUint(strings.TrimPrefix(text, "@"), 10, 64)
	if err != nil || number == 0 {
		return 0, usage.Invalidf("revision %q is not a number from 1: write it like @3", text)
	}
	return number, nil
}

// wantRevision returns a revision of a service that must exist.
func wantRevision(ctx context.Context, c command.Client, s *swarmv1.ServiceInfo, number uint64) (*swarmv1.Revision, error) {
	rev, err := command.FindRevision(ctx, c, s.GetService().GetId(), number)
	if err == nil && rev == nil {
		name := s.GetService().GetName()
		err = usage.Invalidf("service %s has no revision %d: list them with `swarm service history %s`", name, number, name)
	}
	return rev, err
}

func writePretty(ctx context.Context, c command.Client, w io.Writer, ref string, now time.Time) error {
	s, err := findService(ctx, c, ref)
	if err != nil {
		return err
	}
	if err := nameNetworks(ctx, c, s.GetRevision().GetSpec()); err != nil {
		return err
	}
	update := s.GetService().GetUpdateStatus()
	writeService(w, s, term.Ago(now, update.GetStartedAt()), term.Ago(now, update.GetCompletedAt()))
	return nil
}

func object(s *swarmv1.ServiceInfo, previous *swarmv1.ServiceSpec) term.Object {
	service := s.GetService()
	o := term.Stored(service.GetId(), service.GetMeta())
	o = append(o, term.Member{"Revision", service.GetRevision()}, term.Optional("PendingDelete", true, service.GetPendingDelete()))
	o = o.With("Spec", s.GetRevision().GetSpec()).With("PreviousSpec", previous)
	endpoint := term.Describe(s.GetEndpoint())
	endpoint = slices.DeleteFunc(endpoint, func(m term.Member) bool { return m.Name == "ServiceID" || m.Name == "Meta" })
	o = append(o, term.Member{"Endpoint", endpoint})
	return o.With("UpdateStatus", service.GetUpdateStatus()).With("JobStatus", service.GetJobStatus()).With("ServiceStatus", s.GetStatus())
}

// pretty writes lines "Name:   value", and leaves out values that are not set.
type pretty struct{ w io.Writer }

func (p pretty) line(name, value string) {
	if value != "" {
		term.Printf(p.w, "%-15s %s\n", name+":", value)
	}
}

func (p pretty) number(name string, n uint64) {
	if n != 0 {
		p.line(name, fmt.Sprint(n))
	}
}

func (p pretty) pairs(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	term.Printf(p.w, "%s:\n", name)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		term.Printf(p.w, " %s=%s\n", k, m[k])
	}
}

func writeService(w io.Writer, s *swarmv1.ServiceInfo, started, completed string) {
	p := pretty{w}
	service, spec := s.GetService(), s.GetRevision().GetSpec()
	p.line("ID", service.GetId())
	p.line("Name", service.GetName())
	p.pairs("Labels", spec.GetLabels())
	p.line("Service Mode", term.Capitalized(term.ModeWord(spec.GetMode())))
	p.number(" Replicas", spec.GetMode().GetReplicated().GetReplicas())
	p.number(" Max Concurrent", spec.GetMode().GetReplicatedJob().GetMaxConcurrent())
	p.number(" Total Completions", spec.GetMode().GetReplicatedJob().GetTotalCompletions())
	p.line("Revision", fmt.Sprint(service.GetRevision()))
	if u := service.GetUpdateStatus(); u.GetState() != swarmv1.UpdateStatus_UNKNOWN {
		fmt.Fprintln(w, "UpdateStatus:")
		p.line(" State", term.UpdateWord(u.GetState()))
		p.line(" Started", started)
		p.line(" Completed", completed)
		p.line(" Message", u.GetMessage())
	}
	t := spec.GetTaskTemplate()
	if pl := t.GetPlacement(); pl != nil {
		fmt.Fprintln(w, "Placement:")
		p.line(" Constraints", strings.Join(pl.GetConstraints(), ", "))
		for _, pref := range pl.GetPreferences() {
			p.line(" Preference", "spread="+pref.GetSpread().GetSpreadDescriptor())
		}
		p.number(" Max Replicas Per Node", pl.GetMaxReplicas())
	}
	p.restart(t.GetRestartPolicy())
	p.job(spec.GetJob())
	p.policy("UpdateConfig", spec.GetUpdateConfig())
	p.policy("RollbackConfig", spec.GetRollbackConfig())
	p.container(t.GetContainerSpec())
	p.resources(t.GetResources())
	if d := t.GetLogDriver(); d.GetName() != "" || len(d.GetOptions()) > 0 {
		p.line("Log Driver", d.GetName())
		p.each(" Option", pairs(d.GetOptions()))
	}
	for _, n := range t.GetNetworks() {
		p.line("Network", n.GetTarget())
	}
	p.line("Endpoint Mode", term.EnumWord(spec.GetEndpointSpec().GetMode()))
	byHost, byMesh := partition(s.GetEndpoint().GetPorts())
	p.line("Ports", term.PortList(byMesh))
	p.line("Host Ports", term.PortList(byHost))
}

// partition separates the ports that only hosts with a task publish from those of the routing mesh.
func partition(ports []*swarmv1.PortConfig) (byHost, byMesh []*swarmv1.PortConfig) {
	for _, p := range ports {
		if publish.ByMesh(p) {
			byMesh = append(byMesh, p)
		} else {
			byHost = append(byHost, p)
		}
	}
	return byHost, byMesh
}

// job prints when a job runs, and when a run has failed.
func (p pretty) job(j *swarmv1.JobPolicy) {
	if j == nil {
		return
	}
	fmt.Fprintln(p.w, "Job:")
	if j.GetSchedule() != "" {
		p.line(" Schedule", j.GetSchedule())
		p.line(" Time zone", cmp.Or(j.GetTimezone(), "UTC"))
		p.line(" Overlap", strings.ToLower(j.GetOverlap().String()))
		p.line(" Catch up", strings.ToLower(j.GetCatchUp().String()))
	}
	if j.BackoffLimit != nil {
		p.line(" Backoff limit", strconv.FormatUint(j.GetBackoffLimit(), 10))
	}
	if j.GetDeadline() != nil {
		p.line(" Deadline", j.GetDeadline().AsDuration().String())
	}
}

func (p pretty) policy(name string, u *swarmv1.UpdateConfig) {
	if u == nil {
		return
	}
	term.Printf(p.w, "%s:\n", name)
	p.line(" Parallelism", fmt.Sprint(u.GetParallelism()))
	if u.Delay != nil {
		p.line(" Delay", u.GetDelay().AsDuration().String())
	}
	p.line(" On failure", term.EnumWord(u.GetFailureAction()))
	if u.Monitor != nil {
		p.line(" Monitoring Period", u.GetMonitor().AsDuration().String())
	}
	p.line(" Max failure ratio", fmt.Sprintf("%g", u.GetMaxFailureRatio()))
	p.line(" Order", term.EnumWord(u.GetOrder()))
}

// each writes one line for each value.
func (p pretty) each(name string, values []string) {
	for _, v := range values {
		p.line(name, v)
	}
}

func pairs(m map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

func (p pretty) restart(r *swarmv1.RestartPolicy) {
	if r == nil {
		return
	}
	fmt.Fprintln(p.w, "RestartPolicy:")
	p.line(" Condition", term.EnumWord(r.GetCondition()))
	if r.Delay != nil {
		p.line(" Delay", r.GetDelay().AsDuration().String())
	}
	p.number(" Max Attempts", r.GetMaxAttempts())
	if r.Window != nil {
		p.line(" Window", r.GetWindow().AsDuration().String())
	}
}

func (p pretty) container(c *swarmv1.ContainerSpec) {
	fmt.Fprintln(p.w, "ContainerSpec:")
	p.line(" Image", c.GetImage())
	p.line(" Command", strings.Join(c.GetCommand(), " "))
	p.line(" Args", strings.Join(c.GetArgs(), " "))
	p.each(" Env", c.GetEnv())
	p.line(" Dir", c.GetDir())
	p.line(" User", c.GetUser())
	p.line(" Hostname", c.GetHostname())
	if c.GetInit() {
		p.line(" Init", "true")
	}
	p.line(" Stop signal", c.GetStopSignal())
	if c.StopGracePeriod != nil {
		p.line(" Stop grace", c.GetStopGracePeriod().AsDuration().String())
	}
	p.each(" Capability add", c.GetCapabilityAdd())
	p.each(" Capability drop", c.GetCapabilityDrop())
	p.each(" Sysctl", pairs(c.GetSysctls()))
	for _, u := range c.GetUlimits() {
		p.line(" Ulimit", fmt.Sprintf("%s=%d:%d", u.GetName(), u.GetSoft(), u.GetHard()))
	}
	p.each(" DNS", c.GetDnsConfig().GetNameservers())
	p.each(" DNS option", c.GetDnsConfig().GetOptions())
	p.each(" DNS search", c.GetDnsConfig().GetSearch())
	p.each(" Host", c.GetHosts())
	for _, m := range c.GetMounts() {
		p.line(" Mount", fmt.Sprintf("%s %s -> %s (%s)", term.EnumWord(m.Type), m.Source, m.Target, map[bool]string{true: "ro", false: "rw"}[m.ReadOnly]))
	}
	for _, s := range c.GetSecrets() {
		p.line(" Secret", referenceText(s))
	}
	for _, s := range c.GetConfigs() {
		p.line(" Config", referenceText(s))
	}
	if h := c.GetHealthcheck(); h != nil {
		p.line(" Healthcheck", strings.Join(h.GetTest(), " "))
	}
}

func (p pretty) resources(r *swarmv1.ResourceRequirements) {
	one := func(name string, r *swarmv1.Resources) {
		if r == nil {
			return
		}
		term.Printf(p.w, " %s:\n", name)
		if r.NanoCpus != 0 {
			p.line("  CPU", fmt.Sprintf("%g", float64(r.NanoCpus)/1e9))
		}
		if r.MemoryBytes != 0 {
			p.line("  Memory", units.BytesSize(float64(r.MemoryBytes)))
		}
		if r.Pids != nil {
			p.line("  PIDs", pidsWord(r.GetPids()))
		}
	}
	if r.GetLimits() == nil && r.GetReservations() == nil {
		return
	}
	fmt.Fprintln(p.w, "Resources:")
	one("Reservations", r.GetReservations())
	one("Limits", r.GetLimits())
}

// pidsWord returns a limit of processes as text. 0 means that there is no limit.
func pidsWord(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// referenceText returns a reference to a secret or config with its version. A reference that
// follows the object has the version in parentheses.
func referenceText(ref *swarmv1.DataReference) string {
	format := "%s (version %d) -> %s"
	if ref.GetPinned() {
		format = "%s@%d -> %s"
	}
	return fmt.Sprintf(format, ref.GetName(), ref.GetNumber(), ref.GetFile().GetName())
}
