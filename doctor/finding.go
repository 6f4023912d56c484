// Package doctor says what on a host, or between it and the other nodes, would keep swarm from working, and what to do.
//
// It owns the judgement, which is pure: Judge turns Observations into Findings, each with its remedy in one line. It also
// looks at what needs no vendor's library: cgroups, disk, clock, name servers, ports. What netlink and nftables know is
// observed below overlay and handed in, so that whoever judges need not know how it was found out. It changes nothing on
// the host that it does not take back before it returns, and refuses to repair. Caller: cmd/swarm, for `swarm doctor`.
// Goroutines: the one locked to a thread in which the overlay file system is tried; it ends before its caller goes on.
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
