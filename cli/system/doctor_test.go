package system_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
	"swarm/cli/command"
	"swarm/cli/system"
)

var (
	fine   = system.Finding{Level: "ok", Subject: "mtu", Text: "1500 bytes"}
	unwell = system.Finding{Level: "warning", Subject: "clock", Text: "alone", Remedy: "install chrony"}
	broken = system.Finding{Level: "failure", Subject: "kernel", Text: "no VXLAN", Remedy: "modprobe vxlan", Broken: true}
)

func TestDoctor_WithoutADaemon(t *testing.T) {
	var asked system.DoctorRequest
	got := clitest.Run{Doctor: clitest.Findings(&asked, fine, unwell)}.Run(t, "doctor")
	want := "LEVEL     SUBJECT   FINDING      REMEDY\nok        mtu       1500 bytes   \nwarning   clock     alone        install chrony\n"
	if got.Code != 0 || got.ErrOut != "" || got.Out != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	if asked.StateDir != command.DefaultStateDir || asked.Info != nil || asked.Conn != nil {
		t.Errorf("asked %+v", asked)
	}
}

func TestDoctor_FailsWhenSomethingIsBroken(t *testing.T) {
	var asked system.DoctorRequest
	got := clitest.Run{Doctor: clitest.Findings(&asked, fine, unwell, broken)}.Run(t, "doctor", "-q", "--format", "{{.Subject}}", "--state-dir", "/data")
	if got.Code != 1 || got.ErrOut != "" || got.Out != "clock\nkernel\n" || asked.StateDir != "/data" {
		t.Errorf("got %+v, asked %+v", got, asked)
	}
}

func TestDoctor_JSON(t *testing.T) {
	var asked system.DoctorRequest
	got := clitest.Run{Doctor: clitest.Findings(&asked, broken)}.Run(t, "doctor", "--format", "json")
	want := `{"Finding":"no VXLAN","Level":"failure","Remedy":"modprobe vxlan","Subject":"kernel"}` + "\n"
	if got.Code != 1 || got.Out != want {
		t.Errorf("got %+v, want %q", got, want)
	}
}

func TestDoctor_RefusesWhatItCannotLookAt(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"-H tcp://192.0.2.1 doctor", "run it on 192.0.2.1:2377, without -H"},
		{"-H unix:///nowhere.sock doctor", "cannot reach the swarm daemon at unix:///nowhere.sock"},
		{"doctor --state-dir here", `--state-dir "here" is not an absolute path`},
		{"doctor now", "takes no arguments"},
	} {
		var asked system.DoctorRequest
		got := clitest.Run{Doctor: clitest.Findings(&asked, fine)}.Run(t, strings.Fields(tc.line)...)
		if got.Code != 1 || got.Out != "" || !strings.Contains(got.ErrOut, tc.want) {
			t.Errorf("%s: got %+v, want %q", tc.line, got, tc.want)
		}
	}
}
