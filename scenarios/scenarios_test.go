package scenarios

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// deadlineOfOne bounds one scenario. Scenarios share two cores, and each runs up to five daemons.
// With more than two scenarios at a time this bound would measure the machine.
const deadlineOfOne = 5 * time.Minute

// TestScenario runs every *.txtar file, or those that -run 'TestScenario/NAME' selects.
func TestScenario(t *testing.T) {
	binary := binaryUnderTest(t)
	images := buildImages(t)
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition:           condition,
		Cmds:                verbs(),
		Setup: func(env *testscript.Env) error {
			// The name is short because it is part of the paths of unix sockets, whose length is
			// limited.
			name := fmt.Sprintf("s%x", randomBytes(3))
			env.Setenv("PLAYGROUND", name)
			env.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
			env.Setenv("HELLO", filepath.Join(images, "hello.tar"))
			env.Setenv("HELLO2", filepath.Join(images, "hello2.tar"))
			env.Setenv("CHECKED", filepath.Join(images, "checked.tar"))
			env.Setenv("REGISTRY_PROGRAM", filepath.Join(images, "registry"))
			env.Setenv("SWARM_BINARY", binary)
			env.Setenv("HOME", env.WorkDir)
			s := &scene{name: name, binary: binary, deadline: time.Now().Add(deadlineOfOne)}
			env.Values[sceneKey{}] = s
			env.Defer(func() { s.close(env.T()) })
			return nil
		},
	})
}

// TestVerbs_HideBehindNoCommandOfTestscript checks that no verb has the name of a testscript
// command. testscript would run its own command and never the verb.
func TestVerbs_HideBehindNoCommandOfTestscript(t *testing.T) {
	for _, own := range strings.Fields("cd chmod cmp cmpenv cp env exec exists grep kill mkdir mv rm skip stderr stdin stdout stop symlink ttyin ttyout unix2dos unquote wait") {
		if verbs()[own] != nil {
			t.Errorf("verb %s is never called: testscript has one of that name", own)
		}
	}
}

// binaryUnderTest returns the path in SWARM_BINARY, or that of bin/swarm.
func binaryUnderTest(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "scenarios need root: they make network namespaces and run containers")
	}
	binary := os.Getenv("SWARM_BINARY")
	if binary == "" {
		binary = "../bin/swarm"
	}
	abs, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		t.Fatalf("no swarm to test: %v: run `make build` first", err)
	}
	return abs
}

// buildImages builds the test images (two versions of hello, and checked) and the registry program.
// It returns the folder that has them.
func buildImages(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	hello := filepath.Join(dir, "hello")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", hello, "./hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hello: %v\n%s", err, out)
	}
	if out, err := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "registry"), "./registry").CombinedOutput(); err != nil {
		t.Fatalf("build registry: %v\n%s", err, out)
	}
	for _, image := range [][]string{
		{"-o", "hello.tar", "-t", "swarm/hello:1"},
		{"-o", "hello2.tar", "-t", "swarm/hello:2", "-padding", "4096"}, // another digest than hello.tar
		{"-o", "checked.tar", "-t", "swarm/checked:1", "-health", "/app -get http://127.0.0.1:8080/"},
	} {
		image[1] = filepath.Join(dir, image[1])
		out, err := exec.Command("go", slices.Concat([]string{"run", "./mkimage"}, image, []string{hello})...).CombinedOutput()
		if err != nil {
			t.Fatalf("make image %s: %v\n%s", image[3], err, out)
		}
	}
	return dir
}

// condition evaluates a testscript condition such as [root]. With SCENARIOS_STRICT set, an unmet
// condition is an error, because it would skip tests silently.
func condition(name string) (bool, error) {
	met := false
	switch name {
	case "root":
		met = os.Geteuid() == 0
	case "cgroupv2":
		_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
		return err == nil, nil // Tests run with both cgroup versions.
	default:
		return false, fmt.Errorf("unknown condition %q", name)
	}
	if !met && os.Getenv("SCENARIOS_STRICT") != "" {
		return false, fmt.Errorf("condition %q is not met here, and SCENARIOS_STRICT is set", name)
	}
	return met, nil
}

// skip skips the test with a reason. With SCENARIOS_STRICT set it fails the test.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("SCENARIOS_STRICT") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // It never fails.
	return b
}
