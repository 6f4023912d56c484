package service

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/converge"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

var (
	overlaps = []string{"forbid", "allow", "replace"}
	catchUps = []string{"last", "none", "all"}
)

// jobFlags are the flags that say when a job runs, and when a run has failed.
type jobFlags struct {
	schedule, timezone string
	overlap, catchUp   flag.Choice
	backoffLimit       uint64
	deadline           time.Duration
	historyLimit       uint32
}

func (j *jobFlags) register(f *pflag.FlagSet, defaults func(string) string) {
	f.StringVar(&j.schedule, "schedule", "", "When a job runs: an expression of cron such as '*/5 * * * *', or @hourly, @every 10m")
	f.StringVar(&j.timezone, "timezone", "", "Time zone of the schedule, such as Europe/Berlin"+defaults("UTC"))
	f.Var(&j.overlap, "overlap", `What becomes of a scheduled run whose time comes while another one runs ("forbid", "allow", "replace")`+defaults(`"forbid"`))
	f.Var(&j.catchUp, "catch-up", `Which runs are made up for after an outage of the managers ("last", "none", "all")`+defaults(`"last"`))
	f.Uint64Var(&j.backoffLimit, "backoff-limit", 0, "How many tasks of a job's run may fail before the run has failed"+defaults("as the restart policy says"))
	f.DurationVar(&j.deadline, "deadline", 0, "How long a run of a job may take (s|m|h)"+defaults("no limit"))
	f.Uint32Var(&j.historyLimit, "run-history-limit", 0, "How many runs of a job are kept"+defaults("20"))
}

// checkJobFlags refuses flags that do not go with the mode of the service: those of a job for a
// service that runs on, and the other way round.
func (o *flags) checkJobFlags(s *swarmv1.ServiceSpec) error {
	var wrong string
	mode := term.ModeWord(s.GetMode())
	isJob := strings.HasSuffix(mode, "job")
	o.set.VisitAll(func(f *pflag.Flag) {
		policy := strings.HasPrefix(f.Name, "update-") || strings.HasPrefix(f.Name, "rollback-")
		if f.Changed && wrong == "" && (isJob && policy || !isJob && slices.Contains(jobFlagNames, f.Name)) {
			wrong = f.Name
		}
	})
	switch {
	case wrong != "" && isJob:
		return usage.Invalidf("--%s does not go with a %s: a job is not updated task by task; leave it out", wrong, mode)
	case wrong != "":
		return usage.Invalidf("--%s does not go with a %s service: it is for jobs; use --mode replicated-job or global-job", wrong, mode)
	case isJob && o.given("replicas") && o.replicas == 0:
		return usage.Invalidf("--replicas 0 leaves nothing to run: use 1 or more, or remove the job")
	case isJob && o.given("max-concurrent") && o.maxConcurrent == 0:
		return usage.Invalidf("--max-concurrent 0 lets nothing run: use 1 or more, or leave it out")
	case isJob && o.given("run-history-limit") && o.job.historyLimit == 0:
		return usage.Invalidf("--run-history-limit 0 is out of range: use 1 to 1000")
	case isJob && o.given("restart-condition") && o.restartCondition.Value == "any":
		return usage.Invalidf("a job cannot restart on \"any\" condition, it would never end: use --restart-condition on-failure or none")
	}
	return nil
}

// jobFlagNames are the flags that only jobs have.
var jobFlagNames = []string{"schedule", "timezone", "overlap", "catch-up", "backoff-limit", "deadline", "run-history-limit"}

// applyJob sets the flags of a job. A schedule of "" removes the schedule.
func (o *flags) applyJob(s *swarmv1.ServiceSpec) {
	if !o.given(jobFlagNames...) {
		return
	}
	if s.Job == nil {
		s.Job = &swarmv1.JobPolicy{}
	}
	j := s.Job
	set(o, "schedule", &j.Schedule, o.job.schedule)
	set(o, "timezone", &j.Timezone, o.job.timezone)
	set(o, "overlap", &j.Overlap, swarmv1.JobPolicy_Overlap(swarmv1.JobPolicy_Overlap_value[enumName(o.job.overlap.Value)]))
	set(o, "catch-up", &j.CatchUp, swarmv1.JobPolicy_CatchUp(swarmv1.JobPolicy_CatchUp_value[enumName(o.job.catchUp.Value)]))
	set(o, "run-history-limit", &j.HistoryLimit, o.job.historyLimit)
	if o.given("backoff-limit") {
		j.BackoffLimit = &o.job.backoffLimit
	}
	if o.given("deadline") {
		j.Deadline = durationpb.New(o.job.deadline)
	}
}

func newRun(deps *command.Deps) *cobra.Command {
	var detach, quiet bool
	c := command.Verb(&cobra.Command{
		Use: "run [OPTIONS] SERVICE", Short: "Run a job now", Args: usage.ExactArgs(1), ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			return deps.Connect(ctx, func(c command.Client) error {
				run, err := c.RunService(ctx, &swarmv1.RunServiceRequest{Id: args[0]})
				if err != nil {
					return err
				}
				term.Printf(deps.Out, "%s\n", args[0])
				if detach {
					return nil
				}
				return converge.Wait(ctx, deps, c, converge.Change{ServiceID: run.GetServiceId(), Index: run.GetMeta().GetVersion()}, quiet)
			})
		},
	})
	c.Flags().BoolVarP(&detach, "detach", "d", false, "Exit immediately instead of waiting for the end of the run")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress progress output")
	return c
}

type runsOptions struct {
	ref    string
	format term.Format
}

func newRuns(deps *command.Deps) *cobra.Command {
	var o runsOptions
	c := command.Verb(&cobra.Command{
		Use: "runs [OPTIONS] SERVICE", Short: "List the runs of a job, newest first", Args: usage.ExactArgs(1), ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return runRuns(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.format.Template, "format", "", term.FormatHelp)
	c.Flags().BoolVarP(&o.format.Quiet, "quiet", "q", false, "Only display the numbers of runs")
	return c
}

var runListing = term.Table{
	Columns: []term.Column{
		{"Run", "RUN"},
		{"Scheduled", "SCHEDULED"},
		{"Started", "STARTED"},
		{"Duration", "DURATION"},
		{"State", "STATE"},
		{"Completed", "COMPLETED"},
		{"Failed", "FAILED"},
		{"Message", "MESSAGE"},
	},
	More: []term.Column{{"StartedBy", "STARTED BY"}, {"EndedAt", "ENDED AT"}},
	Id:   "Run",
}

func runRuns(ctx context.Context, deps *command.Deps, o runsOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListRuns(ctx, &swarmv1.GetRequest{Id: o.ref})
		if err != nil {
			return err
		}
		var rows []term.Row
		for _, run := range r.GetRuns() {
			rows = append(rows, runRow(run, deps.Now()))
		}
		if err := deps.PrintTable(runListing, o.format, rows); err != nil {
			return err
		}
		if r.GetNext() != nil && o.format.IsTable() {
			term.Printf(deps.Err, "next run: %s\n", term.Stamp(r.GetNext()))
		}
		return nil
	})
}

func runRow(r *swarmv1.Run, now time.Time) term.Row {
	row := term.Row{
		"Run": strconv.FormatUint(r.GetIteration(), 10), "Scheduled": "", "Started": "", "Duration": "", "State": strings.ToLower(r.GetState().String()),
		"Completed": strconv.FormatUint(r.GetCompleted(), 10), "Failed": strconv.FormatUint(r.GetFailed(), 10), "Message": r.GetMessage(),
		"StartedBy": r.GetActor(), "EndedAt": "",
	}
	if r.GetIteration() == 0 {
		row["Run"] = "-"
	}
	if r.GetScheduledAt() != nil {
		row["Scheduled"] = term.Stamp(r.GetScheduledAt())
	}
	if r.GetEndedAt() != nil {
		row["EndedAt"] = term.Stamp(r.GetEndedAt())
	}
	if r.GetStartedAt() == nil {
		return row
	}
	row["Started"] = term.Ago(now, r.GetStartedAt())
	end := now
	if r.GetEndedAt() != nil {
		end = r.GetEndedAt().AsTime()
	}
	row["Duration"] = max(0, end.Sub(r.GetStartedAt().AsTime())).Round(time.Second).String()
	return row
}
