// Package doctor says what would keep swarm from working on a host, or between the host and the
// other nodes, and what to do about it.
//
// The package owns the judgement, which is pure: Judge turns Observations into Findings, each with
// a remedy in one line. It looks at nothing itself and repairs nothing; package doctor/observe
// looks. cmd/swarm calls it for `swarm doctor`, and package adapter/dataplane before a host joins
// (JudgeJoin). It has no goroutines.
package doctor

// Level is the severity of a finding.
type Level string

// The levels.
const (
	// OK: nothing is wrong.
	OK Level = "ok"
	// Note: it works, and the operator should know about it.
	Note Level = "note"
	// Warning: it works badly, or stops to work if something else happens.
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
	// Remedy is what to do, in one line. It is empty if there is nothing to do.
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

// orOK returns the findings or, if there is none, the finding that all is well, with text.
func (v *verdict) orOK(text string) []Finding {
	if len(v.findings) == 0 {
		v.add(OK, text, "")
	}
	return v.findings
}
