package credential_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
)

func TestCredentialLs(t *testing.T) {
	for name, args := range map[string]string{
		"credential-ls": "", "credential-ls-json": "--format json", "credential-ls-quiet": "-q", "credential-ls-no-trunc": "--no-trunc --filter name=ja",
	} {
		got := clitest.Run{Server: clitest.CredentialServer()}.Run(t, append([]string{"credential", "ls"}, strings.Fields(args)...)...)
		if got.Code != 0 || got.ErrOut != "" {
			t.Errorf("%s: got %+v", args, got)
		}
		clitest.Golden(t, name+".golden", got.Out)
	}
	clitest.Refused(t, "filter", clitest.Run{Server: clitest.CredentialServer()}.Run(t, "credential", "ls", "--filter", "label=x"), `unknown filter "label"`)
}

func TestCredentialRm(t *testing.T) {
	got := clitest.Run{Server: clitest.CredentialServer()}.Run(t, "credential", "rm", "jane")
	warning := "Warning: credential f00dcafe4e5f (ci), which user jane created with it, is still valid: to revoke it too, run `swarm credential rm f00dcafe4e5f`\n"
	if got.Code != 0 || got.Out != "0a1b2c3d4e5f60718293a4b5c6d7e8f9\n" || got.ErrOut != warning {
		t.Errorf("got %+v, want the id and %q", got, warning)
	}
	clitest.Refused(t, "nobody", clitest.Run{Server: clitest.CredentialServer()}.Run(t, "credential", "rm", "nobody"), "credential nobody not found")
	if got := (clitest.Run{Server: clitest.CredentialServer()}).Run(t, "credential", "rm", "-f", "nobody"); got.Code != 0 || got.ErrOut != "" {
		t.Errorf("with --force: got %+v", got)
	}
}

func TestCredentialRm_Completes(t *testing.T) {
	got := clitest.Run{Server: clitest.CredentialServer()}.Run(t, "__complete", "credential", "rm", "")
	if !strings.Contains(got.Out, "0a1b2c3d4e5f\tjane\n") {
		t.Errorf("got %q", got.Out)
	}
}
