package cli_test

import (
	"context"
	"strings"
	"testing"

	"swarm/cli/command"
	"swarm/cli/system"
)

// findings gives a doctor that finds the same everywhere and remembers what it was asked.
func findings(asked *system.DoctorRequest, found ...system.Finding) func(context.Context, system.DoctorRequest) ([]system.Finding, error) {
	return func(_ context.Context, r system.DoctorRequest) ([]system.Finding, error) {
		*asked = r
		return found, nil
	}
}

var (
	fine   = system.Finding{Level: "ok", Subject: "mtu", Text: "1500 bytes"}
	unwell = system.Finding{Level: "warning", Subject: "clock", Text: "alone", Remedy: "install chrony"}
	broken = system.Finding{Level: "failure", Subject: "kernel", Text: "no VXLAN", Remedy: "modprobe vxlan", Broken: true}
)

func TestDoctor_WithoutADaemon(t *testing.T) {
	var asked system.DoctorRequest
	got := run{doctor: findings(&asked, fine, unwell)}.run(t, "doctor")
	want := "LEVEL     SUBJECT   FINDING      REMEDY\nok        mtu       1500 bytes   \nwarning   clock     alone        install chrony\n"
	if got.code != 0 || got.errOut != "" || got.out != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	if asked.StateDir != command.DefaultStateDir || asked.Info != nil || asked.Conn != nil {
		t.Errorf("asked %+v", asked)
	}
}

func TestDoctor_FailsWhenSomethingIsBroken(t *testing.T) {
	var asked system.DoctorRequest
	got := run{doctor: findings(&asked, fine, unwell, broken)}.run(t, "doctor", "-q", "--format", "{{.Subject}}", "--state-dir", "/data")
	if got.code != 1 || got.errOut != "" || got.out != "clock\nkernel\n" || asked.StateDir != "/data" {
		t.Errorf("got %+v, asked %+v", got, asked)
	}
}

func TestDoctor_JSON(t *testing.T) {
	var asked system.DoctorRequest
	got := run{doctor: findings(&asked, broken)}.run(t, "doctor", "--format", "json")
	want := `{"Finding":"no VXLAN","Level":"failure","Remedy":"modprobe vxlan","Subject":"kernel"}` + "\n"
	if got.code != 1 || got.out != want {
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
		got := run{doctor: findings(&asked, fine)}.run(t, strings.Fields(tc.line)...)
		if got.code != 1 || got.out != "" || !strings.Contains(got.errOut, tc.want) {
			t.Errorf("%s: got %+v, want %q", tc.line, got, tc.want)
		}
	}
}
