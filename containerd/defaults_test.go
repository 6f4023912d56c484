//go:build linux

package containerd_test

import (
	"archive/tar"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/containerd/containerdtest"
	"swarm/containerd/document"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Each field of an image's configuration is honoured, or this test says why not.
func TestRuntime_HonoursTheImagesConfiguration(t *testing.T) {
	n := newNode(t)
	const ref = "example.com/configured:1"
	n.load(ref, imagev1.Config{
		User:         "7:8",
		Env:          []string{"FROM_IMAGE=yes", "PATH=/bin"},
		Entrypoint:   []string{"/bin/sh", "-c"},
		Cmd:          []string{`echo "$0 $FROM_IMAGE $(id -u) $(id -g) $(pwd)"; while read -r _ at _; do [ "$at" != /kept ] || echo kept; done </proc/mounts`, "argument"},
		Volumes:      map[string]struct{}{"/kept": {}},
		WorkingDir:   "/tmp",
		StopSignal:   "SIGUSR2",
		Shell:        []string{"/bin/sh", "-e", "-c"},
		Labels:       map[string]string{"a": "b"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Healthcheck:  &imagev1.HealthConfig{Test: []string{"CMD-SHELL", "true"}, Interval: 2 * time.Second, Timeout: time.Second, StartPeriod: time.Minute, Retries: 4},
	}, containerdtest.File{Header: tar.Header{Name: "bin/id", Typeflag: tar.TypeSymlink, Linkname: "sh", Mode: 0o777}})
	c := n.container("", func(c *engine.Container) { c.Spec().Image, c.Spec().Command = ref, nil })
	id := c.Task.GetId()
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		t.Fatal(err)
	}
	got, err := n.newRuntime().ImageDefaults(n.Ctx, id) // as a daemon that starts asks
	want := engine.ImageDefaults{
		Healthcheck: &swarmv1.HealthConfig{
			Test: []string{"CMD-SHELL", "true"}, Interval: durationpb.New(2 * time.Second), Timeout: durationpb.New(time.Second),
			StartPeriod: durationpb.New(time.Minute), Retries: 4,
		},
		Shell: []string{"/bin/sh", "-e", "-c"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("image defaults: %v (-want +got):\n%s", err, diff)
	}
	if _, err := n.runtime.ImageDefaults(n.Ctx, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("image defaults of nobody: %v, want not found", err)
	}
	out, errOut, _ := n.output(c)
	if out != "argument yes 7 8 /tmp\nkept\n" {
		t.Errorf("output: got %q, %q", out, errOut)
	}

	rows := map[string]string{
		"User":         "this test",
		"Env":          "this test",
		"Entrypoint":   "this test",
		"Cmd":          "this test",
		"WorkingDir":   "this test",
		"Volumes":      "this test: a folder of its own for each container",
		"StopSignal":   "TestRuntime_LifeOfAContainer",
		"Healthcheck":  "this test; TestWorker_HonoursTheImagesHealthcheck; scenarios/image-healthcheck.txtar",
		"Shell":        "this test: it runs a check of kind CMD-SHELL, and nothing else; the builder has applied it to Entrypoint and Cmd",
		"Labels":       "not honoured: they describe the image, not the task",
		"ExposedPorts": "not honoured: all ports of a task can be reached on its networks, and only a service publishes",
		"ArgsEscaped":  "not honoured: Docker's, for Windows alone",
	}
	const page = "../docs/images.md"
	docs, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []any{imagespec.ImageConfig{}, document.Extra{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(config)) {
			if rows[f.Name] == "" {
				t.Errorf("field %s of an image's configuration: nothing says whether it is honoured", f.Name)
			}
			if !strings.Contains(string(docs), "\n| "+f.Name+" | ") {
				t.Errorf("field %s of an image's configuration: no row in %s", f.Name, page)
			}
		}
	}
}

// The author of an image is not trusted, so numbers out of range are moved into it.
func TestRuntime_BoundsTheImagesHealthcheck(t *testing.T) {
	n := newNode(t)
	const ref = "example.com/eager:1"
	n.load(ref, imagev1.Config{Healthcheck: &imagev1.HealthConfig{
		Test: []string{"CMD", "true"}, Interval: 1, Timeout: -1, StartPeriod: -5, Retries: -3,
	}})
	c := n.container("true", func(c *engine.Container) { c.Spec().Image = ref })
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		t.Fatal(err)
	}
	got, err := n.runtime.ImageDefaults(n.Ctx, c.Task.GetId())
	want := &swarmv1.HealthConfig{Test: []string{"CMD", "true"}, Interval: durationpb.New(time.Second)}
	if diff := cmp.Diff(want, got.Healthcheck, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("health check: %v (-want +got):\n%s", err, diff)
	}
	const long = "example.com/long:1"
	n.load(long, imagev1.Config{Healthcheck: &imagev1.HealthConfig{Test: []string{"CMD-SHELL", strings.Repeat("x", 600<<10)}}})
	c = n.container("true", func(c *engine.Container) { c.Spec().Image = long })
	if err := n.runtime.Prepare(n.Ctx, c); !errdefs.IsInvalidArgument(err) || len(err.Error()) > 1000 {
		t.Errorf("check of 600 KiB: %.300v, want invalid argument", err)
	}
}
