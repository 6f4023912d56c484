package keychain_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/internal/keychain"
)

func open(t *testing.T, dir string) *keychain.File {
	t.Helper()
	f, err := keychain.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func want(t *testing.T, f *keychain.File, key string, c *keychain.Credentials) {
	t.Helper()
	got, err := f.Find(t.Context(), key)
	if diff := cmp.Diff(c, got); err != nil || diff != "" {
		t.Errorf("credentials of %s: %v (-want +got):\n%s", key, err, diff)
	}
}

func TestKey(t *testing.T) {
	for host, key := range map[string]string{
		"": keychain.DockerHub, "docker.io": keychain.DockerHub, "https://index.docker.io/v1/": keychain.DockerHub,
		"r.example.org:5000": "r.example.org:5000", "https://r.example.org/v2/": "r.example.org",
	} {
		if got := keychain.Key(host); got != key {
			t.Errorf("key of %q: got %s, want %s", host, got, key)
		}
	}
}

// The file is Docker's: Store keeps the members that are not credentials, and a symbolic link to
// the file stays a link.
func TestFile_StoresAndErases(t *testing.T) {
	dir, target := t.TempDir(), filepath.Join(t.TempDir(), "settings.json")
	path := filepath.Join(dir, "config.json")
	write(t, target, `{"psFormat": "x", "auths": {"https://old.example.org/v1/": {"auth": "amFuZTpzZWNyZXQ="}}}`, 0o644)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir)
	want(t, f, "old.example.org", &keychain.Credentials{Username: "jane", Password: "secret", ServerAddress: "old.example.org"})
	want(t, f, "other.example.org", nil)
	if err := f.Store(t.Context(), "r:5000", keychain.Credentials{Username: "ann", Password: "p:w"}); err != nil {
		t.Fatal(err)
	}
	if text := read(t, target); !strings.Contains(text, `"psFormat": "x"`) || !strings.Contains(text, `"auth": "YW5uOnA6dw=="`) || strings.Contains(text, "p:w") {
		t.Errorf("file: got %s", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file, which holds passwords: got %v, %v, want 0600", info.Mode(), err)
	}
	f = open(t, dir)
	want(t, f, "r:5000", &keychain.Credentials{Username: "ann", Password: "p:w", ServerAddress: "r:5000"})
	for _, had := range []bool{true, false} {
		if got, err := f.Erase(t.Context(), "old.example.org"); err != nil || got != had {
			t.Errorf("erase: got %v, %v, want %v", got, err, had)
		}
	}
	want(t, open(t, dir), "old.example.org", nil)
	want(t, open(t, dir), "r:5000", &keychain.Credentials{Username: "ann", Password: "p:w", ServerAddress: "r:5000"})
}

// Docker stored one registry under several keys in the course of time. Which of them wins must not
// change from call to call.
func TestFile_SeveralKeysOfOneHost(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	legacy := `"https://r.example.org/v2/": {"auth": "Mjpw"}, "https://r.example.org/v1/": {"auth": "MTpw"}, "http://r.example.org": {"auth": "MDpw"}`
	for text, user := range map[string]string{
		legacy: "0",
		legacy + `, "r.example.org": {"auth": "YW5uOnA="}`: "ann",
	} {
		write(t, path, `{"auths": {`+text+`}}`, 0o600)
		for range 20 {
			want(t, open(t, dir), "r.example.org", &keychain.Credentials{Username: user, Password: "p", ServerAddress: "r.example.org"})
		}
	}
}

// With sudo, the file stays the user's own.
func TestFile_KeepsItsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can write for others")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	write(t, path, `{}`, 0o600)
	if err := os.Chown(path, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Store(t.Context(), "r:5000", keychain.Credentials{Username: "ann", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 1235 || info.Mode() != 0o600 {
		t.Errorf("owner %d:%d, mode %s", st.Uid, st.Gid, info.Mode())
	}
}

func TestFile_Damaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	write(t, path, "{", 0o600)
	if _, err := keychain.Open(dir); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
		t.Errorf("damaged file: got %v, want one line of invalid argument", err)
	}
	write(t, path, `{"auths": {"r": {"auth": "####"}}}`, 0o600)
	if _, err := open(t, dir).Find(t.Context(), "r"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("damaged credentials: got %v, want invalid argument", err)
	}
	write(t, path, `{"auths": null}`, 0o600)
	if err := open(t, dir).Store(t.Context(), "r", keychain.Credentials{Username: "a", Password: "b"}); err != nil {
		t.Error(err)
	}
	if err := open(t, "").Store(t.Context(), "r", keychain.Credentials{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no folder: got %v, want failed precondition", err)
	}
}

// helper keeps one secret in a file, by Docker's protocol.
const helper = `#!/bin/sh
f=%DIR%/secret
case $1 in
store) cat >$f ;;
get) cat >/dev/null; [ -s $f ] || { echo "credentials not found in native keychain"; exit 1; }; cat $f ;;
erase) cat >/dev/null; rm -f $f ;;
esac
`

func TestFile_Helper(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bin, "docker-credential-box"), strings.ReplaceAll(helper, "%DIR%", bin), 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	write(t, filepath.Join(dir, "config.json"), `{"credHelpers": {"r": "box"}, "credsStore": "absent"}`, 0o600)
	f := open(t, dir)
	if f.Helper("r") != "box" || f.Helper("other") != "absent" {
		t.Errorf("helpers: got %q, %q", f.Helper("r"), f.Helper("other"))
	}
	want(t, f, "r", nil)
	want(t, f, "other", nil) // whose helper is not installed
	for _, c := range []keychain.Credentials{
		{Username: "ann", Password: "hush", ServerAddress: "r"}, {IdentityToken: "token", ServerAddress: "r"},
	} {
		if err := f.Store(t.Context(), "r", c); err != nil {
			t.Fatal(err)
		}
		want(t, open(t, dir), "r", &c)
	}
	if text := read(t, filepath.Join(dir, "config.json")); strings.Contains(text, "auth\"") || !strings.Contains(text, `"r": {}`) {
		t.Errorf("file: got %s, want no secret in it", text)
	}
	write(t, filepath.Join(bin, "docker-credential-broken"), "#!/bin/sh\necho the keyring is locked\nexit 1\n", 0o755)
	broken := t.TempDir()
	write(t, filepath.Join(broken, "config.json"), `{"credsStore": "broken"}`, 0o600)
	if _, err := open(t, broken).Find(t.Context(), "r"); err == nil || !strings.Contains(err.Error(), "docker-credential-broken get r: ") || !strings.Contains(err.Error(), "the keyring is locked") {
		t.Errorf("helper that fails: got %v, want its reason", err)
	}
	if had, err := f.Erase(t.Context(), "r"); !had || err != nil {
		t.Errorf("erase: got %v, %v", had, err)
	}
	want(t, open(t, dir), "r", nil)
}

// FuzzOpen: Docker's configuration file, which other programs write. What is stored is found again.
func FuzzOpen(f *testing.F) {
	f.Add(`{"auths":{"r.example":{"auth":"YTpi"}},"credHelpers":{"x":"y"},"HttpHeaders":{}}`)
	f.Add(`{"auths":null,"credsStore":""}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "config.json"), text, 0o600)
		file, err := keychain.Open(dir)
		if err != nil {
			return
		}
		_ = file.Registries()
		const key = "fuzz.example"
		if file.Helper(key) != "" {
			return // Would run a program.
		}
		_, _ = file.Find(t.Context(), key)
		stored := keychain.Credentials{Username: "u", Password: "p:q", ServerAddress: key}
		if err := file.Store(t.Context(), key, stored); err != nil {
			return
		}
		again, err := keychain.Open(dir)
		if err != nil {
			t.Fatalf("%q cannot be read after credentials were stored: %v", text, err)
		}
		if got, err := again.Find(t.Context(), key); err != nil || got == nil || got.Username != "u" || got.Password != "p:q" {
			t.Errorf("%q: stored credentials: got %v, %v", text, got, err)
		}
	})
}
