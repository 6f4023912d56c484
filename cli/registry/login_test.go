package registry_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"swarm/cli/clitest"
	"swarm/internal/keychain"
)

// keyboard is a terminal at which somebody types.
type keyboard struct {
	io.Reader
	raw int
}

func (*keyboard) Size() (int, int, error) { return 80, 25, nil }

func (*keyboard) Resized(context.Context) <-chan struct{} { return nil }

func (k *keyboard) Raw() (func(), error) { k.raw++; return func() {}, nil }

func typed(s string) *keyboard { return &keyboard{Reader: strings.NewReader(s)} }

func registryFake() *clitest.Server {
	return &clitest.Server{Logins: map[string]string{"jane": "secret"}}
}

func login(t *testing.T, r clitest.Run, args ...string) clitest.Result {
	t.Helper()
	return r.Run(t, append([]string{"login"}, args...)...)
}

func stored(t *testing.T, dir, key string) *keychain.Credentials {
	t.Helper()
	f, err := keychain.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Find(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLogin(t *testing.T) {
	for _, c := range []struct {
		name  string
		stdin io.Reader
		args  []string
		want  string // of the answer
		ok    bool
	}{
		{"by standard input", strings.NewReader("secret\n"), []string{"-u", "jane", "--password-stdin", "r:5000"}, "Login Succeeded", true},
		{"by flag", nil, []string{"-u", "jane", "-p", "secret", "https://r:5000/v2/"}, "WARNING! Using --password", true},
		{"at a terminal", typed("jame\x7f\x7fne\rsecret\r"), []string{"r:5000"}, "Password: ", true},
		{"at a terminal, with the name", typed("secret\r"), []string{"-u", "jane", "r:5000"}, "Password: ", true},
		{"interrupted", typed("jane\rsec\x03"), []string{"r:5000"}, "", false},
		{"wrong", strings.NewReader("guess"), []string{"-u", "jane", "--password-stdin", "r:5000"}, "does not take this user name", false},
		{"no terminal", nil, []string{"-u", "jane", "r:5000"}, "--password-stdin", false},
		{"no name", strings.NewReader("secret"), []string{"--password-stdin", "r:5000"}, "--password-stdin needs --username", false},
		{"both", nil, []string{"-u", "jane", "-p", "x", "--password-stdin", "r:5000"}, "mutually exclusive", false},
		{"no registry", nil, []string{"-u", "jane", "-p", "x", "jane@r"}, "is not a registry", false},
		{"empty", strings.NewReader("\n"), []string{"-u", "jane", "--password-stdin", "r:5000"}, "the password is empty", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			got := login(t, clitest.Run{Stdin: c.stdin, Server: registryFake(), Env: map[string]string{"DOCKER_CONFIG": dir}}, c.args...)
			if (got.Code == 0) != c.ok || !strings.Contains(got.Out+got.ErrOut, c.want) {
				t.Fatalf("got %+v, want %q", got, c.want)
			}
			if strings.Contains(got.Out+got.ErrOut, "secret") {
				t.Errorf("the password is shown: %+v", got)
			}
			kept := stored(t, dir, "r:5000")
			if c.ok != (kept != nil) || c.ok && (kept.Username != "jane" || kept.Password != "secret") {
				t.Errorf("kept: got %+v", kept)
			}
		})
	}
}

func TestLogin_WithWhatIsKnown(t *testing.T) {
	dir := t.TempDir()
	r := clitest.Run{Server: registryFake(), Env: map[string]string{"HOME": dir}}
	r.Stdin = strings.NewReader("secret")
	if got := login(t, r, "-u", "jane", "--password-stdin"); got.Code != 0 || !strings.Contains(got.ErrOut, "stored unencrypted in '"+dir) {
		t.Fatalf("got %+v", got)
	}
	r.Stdin = bytes.NewReader(nil)
	if got := login(t, r); got.Code != 0 || !strings.Contains(got.ErrOut, "existing credentials") || got.Out != "Login Succeeded\n" {
		t.Errorf("again: got %+v", got)
	}
	r.Server.Logins["jane"] = "other"
	if got := login(t, r); got.Code != 1 || !strings.Contains(got.ErrOut, "does not take this user name") {
		t.Errorf("changed: got %+v", got)
	}
	r.Stdin = typed("\rother\r")
	if got := login(t, r); got.Code != 0 || !strings.Contains(got.ErrOut, "(jane): ") {
		t.Errorf("with another password: got %+v", got)
	}
	for _, want := range []string{"Removing login credentials for " + keychain.DockerHub, "Not logged in to " + keychain.DockerHub} {
		if got := r.Run(t, "logout"); got.Code != 0 || got.Out != want+"\n" {
			t.Errorf("logout: got %+v, want %s", got, want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, ".docker", "config.json")); err != nil || strings.Contains(string(text), "auth\"") {
		t.Errorf("after logout: got %s, %v", text, err)
	}
}
