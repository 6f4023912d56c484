package cli_test

import (
	"context"
	"strings"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

func (s *fakeServer) GetImage(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.ImageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.images {
		if i.Image.Name == "docker.io/library/"+r.Id {
			return i, nil
		}
	}
	return nil, notFound("image", r.Id)
}

func (s *fakeServer) RemoveImage(ctx context.Context, r *swarmv1.RemoveClusterImageRequest) (*swarmv1.RemoveResponse, error) {
	_, err := s.GetImage(ctx, &swarmv1.GetRequest{Id: r.Id})
	return &swarmv1.RemoveResponse{}, err
}

// Images stand in the order of the names that are shown, and are called by one id everywhere.
func TestImages_OrderAndID(t *testing.T) {
	s := &fakeServer{}
	for _, name := range []string{"docker.io/library/web:1", "docker.io/library/busybox:1", "docker.io/swarm/hello:1", "a.example/z:1", "docker.io/library/vol:1"} {
		s.images = append(s.images, &swarmv1.ImageInfo{Image: &swarmv1.Image{Id: "row", Name: name, Digest: "sha256:0123456789abcdef"}})
	}
	if got := (run{server: s}).run(t, "image", "ls", "--format", "{{.Repository}}"); got.out != "a.example/z\nbusybox\nswarm/hello\nvol\nweb\n" {
		t.Errorf("order: got %+v", got)
	}
	for line, want := range map[string]string{
		"image ls -q --no-trunc":               strings.Repeat("sha256:0123456789abcdef\n", len(s.images)),
		"image ls -q":                          strings.Repeat("0123456789ab\n", len(s.images)),
		"image inspect web:1 --format {{.ID}}": "sha256:0123456789abcdef\n",
		"image rm web:1":                       "Untagged: web:1\n",
	} {
		if got := (run{server: s}).run(t, strings.Fields(line)...); got.out != want {
			t.Errorf("%s: got %+v, want %q", line, got, want)
		}
	}
}

// Of several arguments, what exists is shown or done, in the order in which it was named; then comes the error for the rest.
func TestSeveralArguments(t *testing.T) {
	now := time.Now()
	server := func() *fakeServer {
		s := webServer(t, now)
		s.networks = []*swarmv1.NetworkInfo{{Network: &swarmv1.Network{Id: "net1", Spec: &swarmv1.NetworkSpec{Name: "app"}}}}
		s.images = []*swarmv1.ImageInfo{{Image: &swarmv1.Image{Id: "i1", Name: "docker.io/library/web:1", Digest: "sha256:abcd"}}}
		s.credentials = credentialServer().credentials
		for _, task := range s.tasks {
			task.Task.NodeId = s.nodes[0].Node.Id
		}
		return s
	}
	for _, tc := range []struct {
		args string
		// out is what standard output has of what exists, missing what the error names.
		out, missing string
	}{
		{"service inspect nope web --format {{.ID}}", "svc0000000000000000000001\n", "service nope"},
		{"service inspect --pretty nope web", "svc0000000000000000000001", "service nope"},
		{"service ps -q nope web", "taskaaaaaaaaaaaaaaaaaaaa2\n", "service nope"},
		{"service rm nope web", "web\n", "service nope"},
		{"service scale -d nope=1 web=3", "web scaled to 3\n", "service nope"},
		{"node inspect nope host1 --format {{.Description.Hostname}}", "host1\n", "node nope"},
		{"node inspect --pretty nope host1", "host1", "node nope"},
		{"node ps -q nope host2", "taskaaaaaaaaaaaaaaaaaaaa2\n", "node nope"},
		{"node promote nope host2", "Node host2 ", "node nope"},
		{"node demote nope host2", "host2", "node nope"},
		{"node rm nope host2", "host2\n", "node nope"},
		{"task inspect nope taskaaaaaaaaaaaaaaaaaaaa2 --format {{.ID}}", "taskaaaaaaaaaaaaaaaaaaaa2\n", "task nope"},
		{"network inspect nope app --format {{.Name}}", "app\n", "network nope"},
		{"network rm nope app", "app\n", "network nope"},
		{"image inspect nope web:1 --format {{.Name}}", "docker.io/library/web:1\n", "image nope"},
		{"image rm nope web:1", "Untagged: web:1\n", "image nope"},
		{"credential rm nope ci", "f00dcafe", "credential nope"},
	} {
		got := run{server: server(), now: now}.run(t, strings.Fields(tc.args)...)
		if got.code != 1 || !strings.Contains(got.out, tc.out) || !strings.Contains(got.errOut, tc.missing) || !strings.HasPrefix(got.errOut, "Error: ") {
			t.Errorf("swarm %s: got %+v, want %q in the output and %q in the error", tc.args, got, tc.out, tc.missing)
		}
	}
}
