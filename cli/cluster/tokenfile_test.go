package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"swarm/cli/clitest"
	"swarm/internal/pki"
)

// A join token need not stand on the command line, which every user of the host can read.
func TestJoin_TokenFromElsewhere(t *testing.T) {
	token := pki.NewToken(clitest.NewRoot(t).Cert).String()
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, open := file("private", token+"\n", 0o600), file("open", token, 0o644)
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(pipe, []byte(token), 0) }()
	for _, tc := range []struct{ name, args, stdin, warns string }{
		{"file", "--token-file " + private, "", ""},
		{"file for all", "--token-file " + open, "", "Warning: other users of this host may read the join token in " + open + " (mode 0644): run `chmod 600 " + open + "`"},
		{"pipe", "--token-file " + pipe, "", ""},
		{"standard input", "--token-file -", token + "\n", ""},
		{"standard input as a token", "--token -", "  " + token + "\n", ""},
	} {
		s := &clitest.Server{}
		got := clitest.Run{Server: s, Stdin: strings.NewReader(tc.stdin)}.Run(t, append([]string{"join", "10.0.0.1"}, strings.Fields(tc.args)...)...)
		if got.Code != 0 || len(s.Joins) != 1 || s.Joins[0].Token != token {
			t.Errorf("%s: got %+v, joins %v", tc.name, got, s.Joins)
		}
		if tc.warns == "" && got.ErrOut != "" || !strings.Contains(got.ErrOut, tc.warns) {
			t.Errorf("%s: said %q, want %q", tc.name, got.ErrOut, tc.warns)
		}
	}
	for _, tc := range []struct{ args, want string }{
		{"--token x --token-file y", "--token and --token-file are both given"},
		{"--token-file " + filepath.Join(dir, "absent"), "absent: no such file or directory"},
		{"--token-file " + file("empty", "", 0o600), "join token is empty"},
		{"--token-file " + file("huge", strings.Repeat("x", 1<<20), 0o600), "it has more than 4096 bytes"},
		{"--token -", "join token is empty"},
	} {
		got := clitest.Run{Server: &clitest.Server{}}.Run(t, append([]string{"join", "10.0.0.1"}, strings.Fields(tc.args)...)...)
		clitest.Refused(t, tc.args, got, tc.want)
		if strings.Contains(got.ErrOut, "xxxxxxxxxx") {
			t.Errorf("%s: what was in the file is repeated: %s", tc.args, got.ErrOut)
		}
	}
}
