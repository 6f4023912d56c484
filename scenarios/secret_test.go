package scenarios

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"swarm/dev"
)

// TestSecretsStaySecret gives services on every host a secret, in a file of its own and in a
// templated config, and changes the secret in each way. Daemons and the leader are killed
// meanwhile. Then no file that a process of the cluster has written, and no answer that the API
// gives to a reader, has a value of the secret.
func TestSecretsStaySecret(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 3})
	values := make([]string, 4)
	files := make([]string, len(values))
	for i := range values {
		values[i] = fmt.Sprintf("hunter-%x", randomBytes(12))
		files[i] = filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(files[i], []byte(values[i]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(conf, []byte(`password = {{secret "db"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.swarm("secret", "create", "db", files[0])
	c.swarm("config", "create", "--template-driver", "golang", "app.conf", conf)
	for name, action := range map[string]string{"none": "none", "signal": "signal=WINCH", "exec": "exec=/app -exit-after 1ms -listen=", "restart": "restart"} {
		c.swarm("service", "create", "--detach", "--name", name, "--mode", "global", "--update-monitor", "500ms",
			"--secret", "source=db,keep-previous=1h,on-update="+action, "--config", "source=app.conf,target=/etc/app.conf,on-update="+action,
			"swarm/hello:1")
	}
	for i, value := range values {
		if i > 0 { // After the daemons were killed, there may be no leader for a moment.
			c.eventually("update of the secret", func() error {
				_, err := c.run("secret", "update", "--detach", "db", files[i])
				return err
			})
		}
		for _, name := range []string{"none", "signal", "exec", "restart"} {
			c.eventually(fmt.Sprintf("%s has value %d", name, i), func() error { return c.sees(name, value) })
		}
		if i == 1 {
			for _, h := range c.hosts {
				c.kill(h, true, false)
				c.start(h)
			}
		}
	}
	var answers strings.Builder
	for _, args := range [][]string{
		{"secret", "ls", "--format", "json"},
		{"secret", "inspect", "db"},
		{"secret", "history", "--format", "json", "db"},
		{"config", "inspect", "app.conf"},
		{"service", "inspect", "none", "restart"},
		{"service", "history", "--format", "json", "none"},
		{"task", "ls", "--format", "json"},
	} {
		out, err := c.run(args...)
		answers.WriteString(out)
		if err != nil {
			answers.WriteString(err.Error())
		}
	}
	for i, value := range values {
		if strings.Contains(answers.String(), value) {
			t.Errorf("answers to users have value %d", i)
		}
	}
	for _, h := range c.hosts {
		r := newRecorder(t, h)
		r.readAll("db", "app.conf", "none", "signal", "exec", "restart", "swarm/hello:1", "ingress")
		r.watch()
		r.wantNone(values)
	}
	for _, h := range c.hosts {
		for _, dir := range []string{h.StateDir, h.RunDir, filepath.Dir(h.Log)} {
			c.hasNone(dir, values)
		}
	}
}

// sees returns an error if the task that `swarm exec` chooses has not the value in its secret and
// in its config.
func (c *testCluster) sees(service, value string) error {
	for file, want := range map[string]string{"/run/secrets/db": value, "/etc/app.conf": "password = " + value} {
		out, err := c.run("exec", service, "/app", "-listen=", "-exit-after", "1ms", "-show", file)
		if err != nil || !strings.HasPrefix(out, want) {
			return fmt.Errorf("%s: got %q, %v, want %q", file, out, err, want)
		}
	}
	return nil
}

// hasNone reads all files below a folder that are on a disk. Files in memory may have the values.
func (c *testCluster) hasNone(dir string, values []string) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		var st unix.Statfs_t
		if d.IsDir() && path != dir && unix.Statfs(path, &st) == nil && st.Type == unix.TMPFS_MAGIC && d.Name() == "files" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for i, value := range values {
			if bytes.Contains(data, []byte(value)) {
				c.t.Errorf("%s has value %d", path, i)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Error(err)
	}
}
