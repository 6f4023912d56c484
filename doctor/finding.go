// Package doctor says what would keep swarm from working on a host, or between the host and the other
// nodes, and what to do about it.
//
// The package owns the judgement, which is pure: Judge turns Observations into Findings, each with a
// remedy in one line. It looks at nothing itself and repairs nothing; package doctor/observe looks.
// cmd/swarm calls it for `swarm doctor`, and package adapter/dataplane before a host joins
// (JudgeJoin). It has no goroutines.
package doctor

// Level is how bad a finding is.
type Level string

// The levels.
const (
	// OK: looked at, and well.
	OK Level = "ok"
	// Note: works, and is good to know.
	Note Level = "note"
	// Warning: works until something else happens, or works badly.
	Warning Level = "warning"
	// Failure: something of swarm does not work, or will not.
	Failure Level = "failure"
)

// Finding is one thing found out.
type Finding struct {
	// Subject is one word: kernel, cgroup, disk, sysctl, firewall, mtu, networks, ports, dns, clock, nodes.
	Subject string
	Level   Level
	Text    string
	// Remedy is what to do, in one line; empty when there is nothing to do.
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

// orOK is what was found or, when all is well, the sentence that says so.
func (v *verdict) orOK(text string) []Finding {
	if len(v.findings) == 0 {
		v.add(OK, text, "")
	}
	return v.findings
}
