package credential_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"swarm/cli/clitest"
	"swarm/cli/credential"
)

func TestCredential(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jane.pem")
	s := &clitest.Server{Root: clitest.NewRoot(t)}
	got := clitest.Run{Server: s}.Run(t, "credential", "create", "jane", "-o", path)
	if got.Code != 0 || got.Out != path+"\n" || !strings.Contains(got.ErrOut, "swarm -H tcp://10.0.0.1:2377 --credential jane.pem node ls") {
		t.Fatalf("got %+v", got)
	}
	cred, roots, err := credential.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if cred.Cert.Subject.CommonName == "" || roots.ClusterID() != "cluster1" {
		t.Errorf("got subject %s, cluster %s", cred.Cert.Subject, roots.ClusterID())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	clitest.Refused(t, "again", clitest.Run{Server: s}.Run(t, "credential", "create", "jane", "-o", path), "exists: name another file with -o")
	if _, _, err := credential.Read(filepath.Join(t.TempDir(), "no.pem")); err == nil || !strings.Contains(err.Error(), "swarm credential create") {
		t.Errorf("missing file: got %v", err)
	}
	if _, _, err := credential.Decode([]byte("junk")); err == nil {
		t.Error("junk was accepted")
	}
}
