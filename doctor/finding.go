// Package doctor finds the faults of a host, and of the paths between the host and the other nodes,
// that would prevent swarm from working. Each finding has a remedy.
//
// The package owns the judgement, which is pure: Judge turns Observations into Findings, each with
// a remedy in one line. Package doctor/observe makes the observations. Neither package repairs
// anything. cmd/swarm calls this package for `swarm doctor`, and package adapter/dataplane calls it
// before a host joins (JudgeJoin). It has no goroutines.
package doctor

// Level is the severity of a finding.
type Level string

// The levels.
const (
	// OK: nothing is wrong.
	OK Level = "ok"
	// Note: the subject works, and the operator should know the text.
	Note Level = "note"
	// Warning: the subject works badly, or will stop working if something else happens.
	Warning Level = "warning"
	// Failure: a part of swarm does not work, or will not.
	Failure Level = "failure"
)

// Finding is one result.
type Finding struct {
	// Subject is one of kernel, runc, cgroup, disk, sysctl, firewall, mtu, networks, ports, dns,
	// clock and nodes.
	Subject string
	Level   Level
	Text    string
	// Remedy tells the operator in one line what to do. It is empty if there is nothing to do.
	Remedy string
}

// verdict collects the findings of one subject.
type verdict struct {
	subject  string
	findings []Finding
}

func (v *verdict) add(level Level, text, remedy string) {
	v.findings = append(v.findings, Finding{Subject: v.subject, Level: level, Text: text, Remedy: remedy})
}

// orOK returns the findings. If there is none, it returns one finding of level OK with the text.
func (v *verdict) orOK(text string) []Finding {
	if len(v.findings) == 0 {
		v.add(OK, text, "")
	}
	return v.findings
}
