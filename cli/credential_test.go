package cli_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func credentialServer() *fakeServer {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	meta := &swarmv1.Meta{Version: 3, CreatedAt: timestamppb.New(at)}
	jane := "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	return &fakeServer{credentials: []*swarmv1.Credential{
		{Id: "f00dcafe4e5f60718293a4b5c6d7e8f9", Meta: meta, Name: "ci", Until: timestamppb.New(at.Add(time.Hour)), Issuer: "user jane", IssuerId: jane},
		{Id: jane, Meta: meta, Name: "jane", Until: timestamppb.New(at.Add(90 * 24 * time.Hour)), Issuer: "local uid 0"},
	}}
}

func TestCredentialLs(t *testing.T) {
	for name, args := range map[string]string{
		"credential-ls": "", "credential-ls-json": "--format json", "credential-ls-quiet": "-q", "credential-ls-no-trunc": "--no-trunc --filter name=ja",
	} {
		got := run{server: credentialServer()}.run(t, append([]string{"credential", "ls"}, strings.Fields(args)...)...)
		if got.code != 0 || got.errOut != "" {
			t.Errorf("%s: got %+v", args, got)
		}
		golden(t, name+".golden", got.out)
	}
	refused(t, "filter", run{server: credentialServer()}.run(t, "credential", "ls", "--filter", "label=x"), `unknown filter "label"`)
}

func TestCredentialRm(t *testing.T) {
	got := run{server: credentialServer()}.run(t, "credential", "rm", "jane")
	warning := "Warning: credential f00dcafe4e5f (ci), which user jane created with it, is still valid: to revoke it too, run `swarm credential rm f00dcafe4e5f`\n"
	if got.code != 0 || got.out != "0a1b2c3d4e5f60718293a4b5c6d7e8f9\n" || got.errOut != warning {
		t.Errorf("got %+v, want the id and %q", got, warning)
	}
	refused(t, "nobody", run{server: credentialServer()}.run(t, "credential", "rm", "nobody"), "credential nobody not found")
	if got := (run{server: credentialServer()}).run(t, "credential", "rm", "-f", "nobody"); got.code != 0 || got.errOut != "" {
		t.Errorf("with --force: got %+v", got)
	}
}

func TestCredentialRm_Completes(t *testing.T) {
	got := run{server: credentialServer()}.run(t, "__complete", "credential", "rm", "")
	if !strings.Contains(got.out, "0a1b2c3d4e5f\tjane\n") {
		t.Errorf("got %q", got.out)
	}
}
