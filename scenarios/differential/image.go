package differential

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Images builds the images of the scripts in a folder and returns the archives. swarm/hello:1,
// swarm/hello:2, swarm/checked:1 and swarm/ill:1 have the test server as /app; the health check of
// the last one always fails. swarm/busybox:1 has Debian's busybox as /busybox.
func Images(ctx context.Context, dir string) ([]string, error) {
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	hello, mkimage := filepath.Join(dir, "hello"), filepath.Join(dir, "mkimage")
	for program, source := range map[string]string{hello: "swarm/scenarios/hello", mkimage: "swarm/scenarios/mkimage"} {
		if err := run("build", "-trimpath", "-ldflags", "-s -w", "-o", program, source); err != nil {
			return nil, err
		}
	}
	var out []string
	for _, image := range []struct{ file, tag, padding, health, name, program string }{
		{"hello1.tar", "swarm/hello:1", "0", "", "app", hello},
		{"hello2.tar", "swarm/hello:2", "4096", "", "app", hello}, // another digest
		{"checked.tar", "swarm/checked:1", "0", "/app -get http://127.0.0.1:8080/", "app", hello},
		{"ill.tar", "swarm/ill:1", "0", "/app -get http://127.0.0.1:1/", "app", hello},
		{"busybox.tar", "swarm/busybox:1", "0", "", "busybox", "/bin/busybox"},
	} {
		archive := filepath.Join(dir, image.file)
		cmd := exec.CommandContext(ctx, mkimage, "-o", archive, "-t", image.tag, "-padding", image.padding, "-health", image.health, "-name", image.name, image.program)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make image %s: %w: %s", image.tag, err, text)
		}
		out = append(out, archive)
	}
	return out, nil
}
