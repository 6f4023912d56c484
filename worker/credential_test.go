package worker_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/reflect/protoreflect"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

const password = "pass-of-the-registry"

func withAuth(s *swarmv1.ServiceSpec) {
	s.TaskTemplate.ContainerSpec.PullOptions = &swarmv1.PullOptions{RegistryAuth: password}
}

// A worker keeps registry credentials only in memory. A new session sends them again.
func TestWorker_RegistryCredentialsAreNotOnDisk(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(withAuth), taskObject("t1", running)}
		pulls := &pulls{Images: r.images}
		r.edit = func(_ *worker.Config, d *worker.Deps) { d.Images = pulls }
		r.start()
		m.waitState("t1", running)
		synctest.Wait()
		r.stop()
		scan(t, r.dir)

		r.start()
		m.waitSession(2)
		m.assign(puts(taskObject("t2", running))...)
		m.waitState("t2", running)
		if got := pulls.auths(); len(got) != 2 || got[0] != password || got[1] != password {
			t.Errorf("pulls with %q, want both with %q", got, password)
		}
		r.stop()
		scan(t, r.dir)
	})
}

// scan searches all files below a folder for the password.
func scan(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(password)) {
			t.Errorf("%s has the password", path)
		}
		files++
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files looked at: %v", files, err)
	}
}

// pulls records the credentials of all pulls.
type pulls struct {
	engine.Images
	mu   sync.Mutex // guards the fields below
	with []string
}

func (p *pulls) Pull(ctx context.Context, req engine.PullRequest, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	p.mu.Lock()
	p.with = append(p.with, req.Auth)
	p.mu.Unlock()
	return p.Images.Pull(ctx, req, progress)
}

func (p *pulls) auths() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.with
}

// secretFields has the fields of assignments whose names suggest a secret, with the reason why a
// worker may or may not write them to disk. A new such field fails the test: decide about it in
// assignment.Change.ForDisk.
var secretFields = map[string]string{
	"swarm.v1.PullOptions.registry_auth": "left out by forDisk",
}

func TestAssignment_EverySecretFieldIsDecided(t *testing.T) {
	suspicious := regexp.MustCompile(`auth|password|passwd|token|credential|private`)
	seen := map[protoreflect.FullName]bool{}
	found := map[string]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if suspicious.MatchString(string(f.Name())) && f.Kind() != protoreflect.BoolKind {
				found[string(f.FullName())] = true
				if secretFields[string(f.FullName())] == "" {
					t.Errorf("%s: may a worker write it to its disk?", f.FullName())
				}
			}
			if f.Message() != nil {
				walk(f.Message())
			}
		}
	}
	walk((&swarmv1.Assignment{}).ProtoReflect().Descriptor())
	for name := range secretFields {
		if !found[name] {
			t.Errorf("%s is not part of an assignment any more", name)
		}
	}
}
